"""Settings of the networks of a distillation: student, fake score, discriminator and stored samples."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings, choice_of
from distill.diffusion.noise_levels import Annealing, Karras, LogNormal, NoiseLevels
from distill.diffusion.samplers import Heun
from distill.objectives.settings import R1Settings
from distill.training.optimization.average_settings import Averages
from distill.training.optimization.settings import OptimizerSettings

if TYPE_CHECKING:
    from distill.types import Critic, Denoiser


class GeneratorSettings(Settings):
    """The student: the generator that makes an image in one step or a few."""

    network: choice_of("students", "Student") = Field({"name": "copy"}, validate_default=True)  # type: ignore[valid-type]
    """Architecture of the student. The default, `copy`, starts from the teacher's network and weights."""
    init_noise_to_signal: float = Field(80.0, gt=0)
    """Entry noise level, sigma/alpha: the noise level at which the network reads its first input, pure noise.
    The default is EDM's sigma_max, as in DMD and f-distill; SiD enters at 2.5. A lower level asks the network
    to remove less noise."""
    steps: int = Field(1, ge=1, le=8)
    """Network evaluations for each image. Each step after the first adds new noise to the image so far and
    removes it again, as in DMD2. More steps usually improve images and cost as many evaluations."""
    further_noise_to_signal: tuple[float, ...] | None = None
    """Noise levels, sigma/alpha, at which the second and later steps enter the network, from high to low.
    null spaces them evenly in the schedule's time, or on EDM's grid."""
    step_inputs: Literal["data", "teacher"] | None = None
    """Images whose noised versions are the inputs on which the second and later steps are trained. null takes
    the student's own images after the steps before, as in DMD2's backward simulation: what it gets when it
    samples. `data` are real images, and `teacher` the stored `teacher_samples`, as most few-step methods
    train: cheaper, since each sample takes one step, and stable at the start, but the student's inputs in
    sampling differ. A discriminator of the same run takes the same images."""
    init_from: Path | None = None
    """Start from the generator of this run or export instead of from the teacher."""
    noise_levels: NoiseLevels = Karras()
    """Distribution of the noise levels at which the student is compared with the teacher. High levels compare
    the layout of images, low levels their details."""
    annealing: Annealing | None = None
    """Change of these noise levels in the course of the run, usual in text to 3D; null keeps them."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser of the student."""
    ema: Averages = 0.999
    """Decay of the exponential moving average (EMA) of the student's weights, per generator step. Samples,
    measurements and exports use the average. A larger value averages over more steps, about 1 / (1 - ema); 0
    takes the latest weights. {half_life_images: 5e5, rampup: 0.05} gives it in images, as EDM does. A list
    keeps several averages, each as large as the student in memory and checkpoints; all are measured, and the
    one with the least distance at the last measurement is shown and exported."""

    @model_validator(mode="after")
    def _steps_fall(self) -> GeneratorSettings:
        further = self.further_noise_to_signal
        if further is not None and len(further) != self.steps - 1:
            raise ValueError(
                f"further_noise_to_signal: holds {len(further)} levels; "
                f"expected {self.steps - 1}, one for each step after the first"
            )
        levels = (self.init_noise_to_signal, *(further or ()), 0.0)
        if any(level <= following for level, following in itertools.pairwise(levels)):
            raise ValueError(
                "further_noise_to_signal: expected levels that fall from init_noise_to_signal, "
                f"{levels[0]:g}, and stay above 0"
            )
        return self

    @model_validator(mode="after")
    def _inputs_belong_to_later_steps(self) -> GeneratorSettings:
        if self.step_inputs is not None and self.steps == 1:
            raise ValueError(
                f"step_inputs: {self.step_inputs} noises images for the second and later steps, and there is "
                "one step; expected steps: 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _anneals_its_levels(self) -> GeneratorSettings:
        found = self.noise_levels.name if self.annealing is None else self.annealing.noise_levels.name
        if found != self.noise_levels.name:
            raise ValueError(
                f"annealing.noise_levels: is {found}; expected {self.noise_levels.name} as before"
            )
        if self.annealing is not None:
            self.annealing.check_shift(self.noise_levels)
        return self


class FakeScoreSettings(Settings):
    """The fake score: a denoiser that learns the student's images while the student changes."""

    network: choice_of("students", "FakeScore") = Field({"name": "copy"}, validate_default=True)  # type: ignore[valid-type]
    """Architecture of the fake score. The default, `copy`, starts from the teacher's network and weights."""
    updates: int = Field(1, ge=1)
    """Updates of the fake score, and of the discriminator, for each update of the generator. More keep the
    fake score closer to the student, and each costs about half of a whole step with one: SiD takes 1, DMD2 5
    or 10."""
    warmup_steps: int = Field(0, ge=0)
    """Steps at the start in which only the fake score and the discriminator are trained. The fake score
    starts as the teacher, so a student from `init_from` needs them."""
    noise_levels: NoiseLevels = LogNormal()
    """Distribution of the noise levels at which the fake score and the discriminator are trained. The default
    is EDM's."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser of the fake score."""
    alignment: float | None = Field(None, gt=0, lt=1)
    """Implicit distribution alignment of SenseFlow (Ge et al. 2025, arXiv:2506.00523): after each update of
    the generator the fake score's weights become alignment * fake + (1 - alignment) * generator, so that the
    fake score follows a student that changes fast. Their code has 0.98 for Stable Diffusion 3.5. A smaller
    value pulls more; near 1 it hardly does. Needs a fake score of the student's network with the same
    settings, whole or LoRA; of adapters it pulls the two factors. null, the default, aligns nothing."""


class TeacherSamplesSettings(Settings):
    """Samples of the teacher's many-step sampler, drawn once and stored with the noise they came from."""

    path: Path
    """Folder to store the samples in. A folder that already holds exactly these samples is reused."""
    count: int = Field(ge=1)
    """Number of samples, with balanced labels. More represent the teacher better; each takes
    2 * sampler.steps - 1 evaluations of the teacher, once."""
    sampler: Heun = Heun()
    """Sampler that draws them."""
    anchor: int | None = Field(None, ge=1)
    """Steps of the sampler after which its path from noise to image is continued in a straight line, for the
    regression of a student's first step (DP-DMD, Wu et al. 2026, whose code takes 5 of 30 steps). Fewer steps
    give a smoother target, which one evaluation can reach, and cost less; all of them give the image itself,
    and so does null, the default. Needs a regression term with `step: 1`."""

    @model_validator(mode="after")
    def _anchor_is_on_the_path(self) -> TeacherSamplesSettings:
        if self.anchor is not None and self.anchor > self.sampler.steps:
            raise ValueError(
                f"anchor: is {self.anchor}; expected at most the sampler's steps, {self.sampler.steps}"
            )
        return self


class DiscriminatorSettings(Settings):
    """Heads on another network's features that tell real images from student samples."""

    reads: Literal["teacher", "fake"] = "teacher"
    """Network whose features the discriminator reads: the frozen teacher (f-distill), or the fake score,
    which is then trained by the discriminator's loss too (DMD2, SiDA)."""
    real: Literal["data", "teacher"] = "data"
    """Images that count as real: those of `data`, or the stored `teacher_samples`. With the teacher's own
    samples no data is needed, and the density ratio is that of teacher to student."""
    depths: tuple[str, ...] = Field(("bottleneck",), min_length=1)
    """Layers whose features are read, by the network's names. A resolution such as `8` is the last encoder
    layer at that resolution; `bottleneck` is the output of the middle block."""
    heads: Literal["trained", "channel_mean"] = "trained"
    """`trained`: convolutions with weights of their own on the features. `channel_mean`: the mean over the
    features' channels as one logit per pixel, as in SiDA and Uni-Instruct. It has no weights, so it needs
    `reads: fake`."""
    width: int = Field(64, ge=4)
    """Channels of each trained head."""
    weight: float = Field(1.0, ge=0)
    """Weight of the discriminator's loss against the fake score's. It matters only with `reads: fake`, where
    both losses train one network: a larger value favours telling images apart over denoising."""
    own_noise: bool = False
    """Add separate noise to student samples and real images for the discriminator, as DMD2 does; false reuses
    the fake score's noise. With `reads: fake` it costs one more forward and backward pass of the encoder in
    each update."""
    r1: R1Settings | None = None
    """R1 gradient penalty, which keeps the discriminator smooth; null adds none."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser of the discriminator's heads."""

    @model_validator(mode="after")
    def _heads_fit(self) -> DiscriminatorSettings:
        if self.heads == "channel_mean" and self.reads == "teacher":
            raise ValueError(
                "heads: channel_mean has no weights, and the teacher does not learn; expected reads: fake"
            )
        if self.heads == "channel_mean" and self.r1 is not None:
            raise ValueError("r1: penalises trained heads; expected r1: null with heads: channel_mean")
        return self

    def build(self, teacher: Denoiser, fake: Denoiser) -> Critic:
        """Build the discriminator over the network that it reads."""
        from distill.networks.discriminator import ChannelMean, Discriminator

        known = (teacher if self.reads == "teacher" else fake).depth_channels
        if not known:
            raise UserError(
                f"discriminator.reads: the {self.reads} has no features; "
                "expected the other network, or no discriminator"
            )
        for depth in self.depths:
            if depth not in known:
                hint = did_you_mean(depth, known)
                raise UserError(f"discriminator.depths: '{depth}' is not a depth of the {self.reads}{hint}")
        if self.heads == "channel_mean":
            return ChannelMean(self.depths)
        return Discriminator(self.reads, {depth: known[depth] for depth in self.depths}, self.width)
