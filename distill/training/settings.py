"""Settings of a run, `train.py`'s configuration. The docstring under a field is its help text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from distill.config.settings import Settings, choice_of
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import LogNormal, NoiseLevels
from distill.diffusion.samplers import Heun
from distill.networks.diffusers.source import PipelineSettings
from distill.networks.sizes import UNetSizes
from distill.objectives.settings import ObjectiveSettings, RatioSettings
from distill.training.distillation.settings import (
    DiscriminatorSettings,
    FakeScoreSettings,
    GeneratorSettings,
    TeacherSamplesSettings,
)
from distill.training.optimization.settings import OptimizerSettings
from distill.training.parallel.settings import ShardingSettings
from distill.training.stop_condition import StopCondition

PRECISIONS = {
    "no": "fp32",
    "off": "fp32",
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "False": "fp32",
    "bfloat16": "bf16",
    "bf16-mixed": "bf16",
    "bfloat16-true": "bf16-true",
    "16": "fp16",
    "16-mixed": "fp16",
    "float16": "fp16",
}
"""Names of precisions in accelerate, lightning and torch, and ours."""


def _known_precision(value: Any) -> Any:
    """Translate the names that other libraries have for a precision."""
    return PRECISIONS.get(str(value), value)


def _known_size(value: Any) -> Any:
    """Accept a whole number, `auto` and null, with one message for everything else."""
    if value is None or value == "auto":
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer() or number < 1:
        raise ValueError(f"expected a whole number from 1, auto or null; found {value!r}")
    return int(number)


class RunSettings(Settings):
    """Settings that every run has."""

    run_dir: Path
    """Folder of the run, for configuration, statistics, samples, checkpoints, export and report."""
    resume: str = "auto"
    """Checkpoint to continue from: `auto` takes the newest one in the run's folder, if there is one, and one
    before it if its files are damaged; `never` refuses a folder that has one; a path names one."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all random numbers. The same seed and configuration repeat a run."""
    steps: int = Field(ge=1)
    """Length of the run in steps. Each updates the generator, except in the first `fake.warmup_steps`, or the
    teacher or autoencoder that is trained."""
    batch_size: int = Field(64, ge=1)
    """Images in an update, over all processes. A larger batch makes gradients less noisy and steps slower."""
    micro_batch_size: Annotated[int | Literal["auto"] | None, BeforeValidator(_known_size)] = None
    """Maximum number of images that one process computes at once; the gradients of a batch are accumulated.
    Lower it when memory runs out: it changes memory and time, not the result. `auto` takes the largest that
    the predicted memory of a GPU holds, and the whole batch on a CPU; null takes the whole batch."""
    data_workers: int = Field(0, ge=0)
    """Processes that read data, for each training process. 0 reads in the training process itself, which is
    enough for data held in memory; raise it if the device waits for images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` takes a CUDA device if there is one."""
    precision: Annotated[Literal["fp32", "bf16", "bf16-true", "fp16"], BeforeValidator(_known_precision)] = (
        "fp32"
    )
    """Precision in which networks compute. `bf16` keeps weights in float32 and casts them in each pass
    (autocast). `bf16-true` holds the weights in bfloat16, so that no pass casts them, and those that are
    trained in float32 too. `fp16` is autocast with scaled losses, for networks that were trained so and for
    cards without bfloat16. `no` and `float32` mean fp32, `bfloat16` means bf16."""
    tf32: bool = True
    """Let float32 products on a GPU round their factors to TensorFloat-32, with 10 bits of mantissa, for
    which it has faster units. false computes in full float32."""
    compile: Literal["none", "blocks", "step"] = "none"
    """Compile by torch.compile, which takes a minute or more in the first step. `blocks` compiles the
    repeated blocks of the networks: fewer and larger kernels. `step` compiles whole losses, with CUDA graphs
    on a GPU, for small networks whose kernels take less time than their launches. Changes results by rounding
    only."""
    channels_last: bool = False
    """Hold the activations of convolutional networks with channels last, the layout of a GPU's convolutions
    in reduced precision; others are transposed for them. Changes results by rounding only."""
    deterministic: bool = False
    """Use kernels that add in a fixed order, so that a run on a GPU repeats itself and resumes bit for bit.
    Some are slower. On a CPU a run always does."""
    sharding: ShardingSettings = ShardingSettings()
    """Distribution of networks over processes, for networks that one GPU does not hold."""
    process_timeout: float = Field(1800.0, gt=0)
    """Seconds for which a process waits for the others. If one of them hangs, the run ends after this time,
    with one line. Shorter than the longest sampling, measurement or compilation, it ends a healthy run."""
    activation_checkpointing: bool = False
    """Recompute block activations in the backward pass. Saves memory, costs about a third more time, does not
    change results."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of stats.jsonl, which average over those steps."""
    sample_every: int = Field(500, ge=1)
    """Steps between grids of samples in the run's folder."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints. An interrupted run loses at most so many; writing one takes time."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of checkpoints to keep, the newest; older ones are deleted."""
    monitor_every: int | None = Field(500, ge=1)
    """Steps between measurements of the samples' distance to the data. null measures nothing, which spares
    the features of all real images at the start: minutes on a CPU for images of more than 1024 values."""
    monitor_images: int = Field(2000, ge=2)
    """Images in each measurement. Few make it fast and its distances too large, so compare them with each
    other only, not with those of `python -m eval`."""
    monitor_protocol: str = "auto"
    """Protocol of the measurements; `python -m eval protocols` lists them. `auto` takes fd-pixel for images
    of at most 1024 values, and fd-effnet for larger ones if its package is installed."""
    monitor_weights: str | None = None
    """File or folder with the weights of the protocol's feature network; null finds or downloads them."""
    monitor_reference: Path | None = None
    """File of published statistics (.npz, .pkl) to measure against; null measures against the run's training
    data."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers that get the statistics too; stats.jsonl is always written."""
    stop_when: tuple[StopCondition, ...] = ()
    """Conditions that stop the run early, such as [{measure: monitor/fd_pixel, above: 0.5}]. A stopped run is
    saved and exported, with exit code 3."""

    @model_validator(mode="after")
    def _sharding_fits(self) -> RunSettings:
        if self.sharding.is_on and self.compile == "step":
            raise ValueError("compile: step does not go with sharding; expected blocks or none")
        return self

    @property
    def micro_batch(self) -> int | None:
        """The micro-batch as a number, with which a run replaces `auto`, or None for the whole batch."""
        if self.micro_batch_size == "auto":
            raise ValueError("micro_batch_size: auto is not resolved yet")
        return self.micro_batch_size


class DistillRun(RunSettings):
    """Distil a teacher into a generator of one step or a few."""

    task: Literal["distill"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources") | None = None  # type: ignore[valid-type]
    """Source of real images, for the discriminator and for measurements. null works for methods without a
    discriminator, or with `discriminator.real: teacher`."""
    teacher: choice_of("teachers")  # type: ignore[valid-type]
    """Pretrained diffusion model to distil."""
    prompts: choice_of("data.prompts") | None = None  # type: ignore[valid-type]
    """Source of prompts for a text-to-image teacher; null for other teachers."""
    teacher_samples: TeacherSamplesSettings | None = None
    """Stored samples of the teacher, for `discriminator.real: teacher` and for the regression term; null
    draws none."""
    generator: GeneratorSettings = GeneratorSettings()
    """The student, which learns to make images in one step or a few."""
    fake: FakeScoreSettings = FakeScoreSettings()
    """The fake score, a denoiser that learns the student's images while the student changes."""
    objective: ObjectiveSettings
    """Loss that the generator minimises: a divergence between the student's images and the teacher's."""
    guidance: GuidanceScales = GuidanceScales()
    """Classifier-free guidance of teacher and fake score."""
    discriminator: DiscriminatorSettings | None = None
    """Discriminator between real images and student samples, for the GAN term and the density ratio; null
    trains none."""
    ratio: RatioSettings | None = None
    """Density ratio of teacher to student, by which most divergences weight samples. null works for reverse
    KL and for score matching."""
    terms: tuple[choice_of("objectives.terms"), ...] = ()  # type: ignore[valid-type]
    """Losses added to the objective, such as [{name: gan, weight: 1e-3}]."""

    @model_validator(mode="after")
    def _fits_together(self) -> DistillRun:
        self.generator.network.check(self)
        for term in self.terms:
            term.check(self)
        if getattr(self.teacher, "attention", None) == "flash" and self.precision == "fp32":
            raise ValueError(
                "teacher.attention: flash computes in half precision; "
                "expected precision: bf16, or attention: sdpa or xformers"
            )
        return self

    @model_validator(mode="after")
    def _levels_are_compiled(self) -> DistillRun:
        if self.compile == "step" and self.generator.annealing is not None:
            raise ValueError("compile: step does not go with generator.annealing; expected blocks or none")
        return self

    @model_validator(mode="after")
    def _penalty_fits_sharding(self) -> DistillRun:
        r1 = None if self.discriminator is None else self.discriminator.r1
        if r1 is not None and r1.recompute and self.sharding.is_on:
            raise ValueError("discriminator.r1.recompute: true does not go with sharding; expected false")
        return self

    @model_validator(mode="after")
    def _ratio_has_its_source(self) -> DistillRun:
        if self.ratio is None:
            return self
        if self.ratio.source != "exact":
            if self.discriminator is None:
                raise ValueError("ratio: needs a discriminator; expected settings under 'discriminator'")
            return self
        if self.fake.network.name != "exact":
            raise ValueError(f"ratio.source: exact needs fake.network exact; found {self.fake.network.name}")
        if self.discriminator is not None:
            raise ValueError("ratio.source: exact takes no discriminator; expected discriminator: null")
        return self

    @model_validator(mode="after")
    def _discriminator_has_real_images(self) -> DistillRun:
        if self.discriminator is None or self.discriminator.real == "teacher":
            return self
        if self.data is None:
            raise ValueError(
                "discriminator: needs real images; expected a source under 'data', or real: teacher"
            )
        if self.prompts is not None and self.prompts.name != "captions":
            raise ValueError(
                "prompts: real images are shown with their own; "
                "expected captions, or discriminator.real: teacher"
            )
        return self

    @model_validator(mode="after")
    def _ratio_fits_the_objective(self) -> DistillRun:
        if self.ratio is not None and self.ratio.low >= self.ratio.high:
            raise ValueError(
                f"ratio.low: is {self.ratio.low:g}; expected less than ratio.high, {self.ratio.high:g}"
            )
        if self.ratio is None and self.objective.uses_ratio:
            raise ValueError("objective.divergence: needs a density ratio; expected settings under 'ratio'")
        return self

    @model_validator(mode="after")
    def _terms_are_distinct(self) -> DistillRun:
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"terms: {name} stands there twice; expected once")
        return self

    @model_validator(mode="after")
    def _teacher_samples_fit(self) -> DistillRun:
        as_real = self.discriminator is not None and self.discriminator.real == "teacher"
        if self.teacher_samples is None:
            if as_real:
                raise ValueError(
                    "discriminator.real: teacher needs stored samples; "
                    "expected settings under 'teacher_samples'"
                )
        elif not (as_real or self.needs_pairs):
            raise ValueError(
                "teacher_samples: are used by nothing; "
                "expected discriminator.real: teacher, or a regression term"
            )
        return self

    @property
    def has_discriminator(self) -> bool:
        return self.discriminator is not None

    @property
    def pair_sampler(self) -> Heun | None:
        """The sampler of the stored teacher samples, None if there are none."""
        return None if self.teacher_samples is None else self.teacher_samples.sampler

    @property
    def student_steps(self) -> int:
        """Network evaluations of the student."""
        return self.generator.steps

    @property
    def student_network(self) -> str:
        """Name of the student's architecture."""
        return self.generator.network.name

    @property
    def is_sharded(self) -> bool:
        return self.sharding.is_on

    @property
    def shows_data(self) -> bool:
        """A discriminator sees real images of the data."""
        return self.discriminator is not None and self.discriminator.real == "data"

    @property
    def prompt_source(self) -> str | None:
        """Name of the source of prompts, None if there is none."""
        return None if self.prompts is None else self.prompts.name

    @property
    def own_noise(self) -> tuple[str, ...]:
        """Fields of a batch with the noise that the discriminator alone sees."""
        anew = any(term.adds_own_noise for term in self.terms)
        own = self.discriminator is not None and self.discriminator.own_noise
        return ("gan_noise",) * anew + ("discriminator_noise", "real_noise") * own

    @property
    def needs_pairs(self) -> bool:
        """A term compares the student with the teacher's samples from the same noise."""
        return any(term.needs_pairs for term in self.terms)


class TrainTeacherRun(RunSettings):
    """Train a diffusion teacher on data."""

    task: Literal["train_teacher"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources")  # type: ignore[valid-type]
    """Source of the images to train on, with captions for a teacher that takes text. If an image has several,
    one is drawn each time."""
    network: UNetSizes = UNetSizes()
    """Sizes of the U-Net of this project that is trained, unless `pipeline` describes another network."""
    pipeline: PipelineSettings | None = None
    """Pipeline of diffusers whose denoiser is trained, such as a latent text-to-image model, and as which it
    is exported. null trains the U-Net that `network` describes."""
    noise_levels: NoiseLevels = LogNormal()
    """Distribution of the noise levels at which the teacher is trained. The default is EDM's."""
    label_dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of images shown without their label or caption, so that the teacher can be guided; 0.1 is
    usual, and 0 trains a teacher without guidance."""
    optimizer: OptimizerSettings = OptimizerSettings(betas=(0.9, 0.999))
    """Optimiser of the teacher."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the exponential moving average (EMA) of the teacher's weights, per step. The exported teacher
    is the average. A larger value averages over more steps, about 1 / (1 - ema)."""

    @model_validator(mode="after")
    def _has_one_network(self) -> TrainTeacherRun:
        if self.pipeline is not None and self.network != UNetSizes():
            raise ValueError("pipeline: is given beside 'network'; expected one of them")
        return self


class TrainAutoencoderRun(RunSettings):
    """Train on data an autoencoder, in whose latents a teacher works."""

    task: Literal["train_autoencoder"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources")  # type: ignore[valid-type]
    """Source of the images to train on."""
    network: dict[str, Any]
    """Configuration of the `AutoencoderKL` of diffusers that is trained, such as {block_out_channels: [32,
    64, 128], layers_per_block: 1, latent_channels: 8}. Each level after the first halves the height of the
    latents. The images decide `in_channels`, `out_channels` and `sample_size`. Types of blocks that are not
    given are those of Stable Diffusion's."""
    reconstruction: Literal["l1", "l2"] = "l1"
    """Error of the reconstruction per value of the image: absolute (l1), the default, which gives sharper
    edges, or squared (l2)."""
    kl_weight: float = Field(1e-6, ge=0)
    """Weight of the KL divergence of an image's latents from N(0, I), with the error summed over the image.
    The default is Stable Diffusion's. A larger one makes latents smoother, which a teacher learns more
    easily, and reconstructions coarser."""
    optimizer: OptimizerSettings = OptimizerSettings(betas=(0.9, 0.999))
    """Optimiser of the autoencoder."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the exponential moving average (EMA) of the autoencoder's weights, per step. The exported
    autoencoder is the average. A larger value averages over more steps, about 1 / (1 - ema)."""

    @model_validator(mode="after")
    def _is_whole(self) -> TrainAutoencoderRun:
        if self.sharding.is_on:
            raise ValueError(
                f"sharding.strategy: is {self.sharding.strategy}; expected none, since every process holds "
                "the whole autoencoder"
            )
        return self


RunConfig = DistillRun | TrainTeacherRun | TrainAutoencoderRun
RUN = TypeAdapter(Annotated[RunConfig, Field(discriminator="task")])
