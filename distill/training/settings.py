"""What a run may be told: the typed settings of `train.py`, whose docstrings are its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings
from distill.training.optimizer import OptimizerSettings

if TYPE_CHECKING:
    from distill.types import Critic, Denoiser
import itertools
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator, TypeAdapter

from distill.config.settings import choice_of
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import Karras, LogNormal, NoiseLevels
from distill.diffusion.samplers import Heun
from distill.objectives.settings import ObjectiveSettings, R1Settings, RatioSettings
from distill.training.stop_condition import StopCondition


def _known_precision(value: Any) -> Any:
    """The names that accelerate and torch have for them, as ours."""
    names = {
        "no": "fp32",
        "off": "fp32",
        "32": "fp32",
        "float32": "fp32",
        "False": "fp32",
        "bfloat16": "bf16",
    }
    if str(value) in ("fp16", "float16", "16"):
        raise ValueError("fp16 needs its losses scaled, which is not offered; expected bf16 or fp32")
    return names.get(str(value), value)


class GeneratorSettings(Settings):
    """The student, evaluated once or a few times."""

    network: choice_of("students", "Student") = Field({"name": "copy"}, validate_default=True)  # type: ignore[valid-type]
    """Its architecture: a copy of the teacher, or, in the laboratory, a network for vectors."""
    init_noise_to_signal: float = Field(80.0, gt=0)
    """sigma/alpha at which the network is entered: 2.5 in SiD, the teacher's sigma_max in DMD and f-distill."""
    steps: int = Field(1, ge=1, le=8)
    """Network evaluations of an image; after the first, each is of the image so far, noised anew, as in DMD2."""
    further_noise_to_signal: tuple[float, ...] | None = None
    """sigma/alpha at which the steps after the first enter the network; null spaces them evenly in the schedule's time, or on EDM's grid."""
    init_from: Path | None = None
    """Start from the generator of this run or export instead of from the teacher."""
    noise_levels: NoiseLevels = Karras()
    """Noise levels at which the student is compared with the teacher."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Its optimiser."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the average of its weights, per generator step."""

    @model_validator(mode="after")
    def _steps_fall(self) -> GeneratorSettings:
        further = self.further_noise_to_signal
        if further is not None and len(further) != self.steps - 1:
            raise ValueError(
                f"further_noise_to_signal: holds {len(further)} levels; expected {self.steps - 1}, one for each step after the first"
            )
        levels = (self.init_noise_to_signal, *(further or ()), 0.0)
        if any(level <= following for level, following in itertools.pairwise(levels)):
            raise ValueError(
                f"further_noise_to_signal: expected levels that fall from init_noise_to_signal, {levels[0]:g}, and stay above 0"
            )
        return self


class FakeScoreSettings(Settings):
    """The fake score, which follows the student's distribution."""

    network: choice_of("students", "FakeScore") = Field({"name": "copy"}, validate_default=True)  # type: ignore[valid-type]
    """Its architecture: a copy of the teacher, or, in the laboratory, a network for vectors or the exact score."""
    updates: int = Field(1, ge=1)
    """Updates of the fake score, and of the discriminator, to one of the generator."""
    warmup_steps: int = Field(0, ge=0)
    """First steps in which only the fake score and the discriminator learn."""
    noise_levels: NoiseLevels = LogNormal()
    """Noise levels at which they learn."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Its optimiser."""


class TeacherSamplesSettings(Settings):
    """Samples of the teacher's many-step sampler, drawn once and stored with the noise they came from."""

    path: Path
    """Folder to store them in; one that holds these very samples is used as it is."""
    count: int = Field(ge=1)
    """How many; their labels are balanced."""
    sampler: Heun = Heun()
    """The sampler."""


class DiscriminatorSettings(Settings):
    """Heads on another network's features that tell real images from student samples."""

    reads: Literal["teacher", "fake"] = "teacher"
    """Network whose features are read: the frozen teacher (f-distill), or the fake score, trained jointly (DMD2, SiDA)."""
    real: Literal["data", "teacher"] = "data"
    """What counts as real: the images of `data`, or the stored `teacher_samples`, whose density ratio to the student needs no data."""
    depths: tuple[str, ...] = ("bottleneck",)
    """Depths of the features, by the network's own names. A resolution such as `8` is the last layer of the encoder at that resolution, so that the
    smallest one is the end of the encoder; `bottleneck` is what the middle block makes of it."""
    heads: Literal["trained", "channel_mean"] = "trained"
    """`trained`: convolutions on the features, with weights of their own. `channel_mean`: the mean over the features' channels, a logit for each
    pixel, as in SiDA and Uni-Instruct; the fake score alone learns to tell the images apart, so it must be what is read."""
    width: int = Field(64, ge=4)
    """Channels of each trained head."""
    weight: float = Field(1.0, ge=0)
    """Weight of its loss against the fake score's, which matters where it reads the fake score."""
    own_noise: bool = False
    """Noise its student samples and its real images each anew, as DMD2 does; false takes the noise that the fake score learns with. Where it
    reads the fake score, this costs another pass of it in each of its updates."""
    r1: R1Settings | None = None
    """Gradient penalty; null does without."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Its optimiser."""

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
        """The discriminator over the network that it reads. Raises UserError for an unknown depth, or a network that has none."""
        from distill.networks.discriminator import ChannelMean, Discriminator

        known = (teacher if self.reads == "teacher" else fake).depth_channels
        if not known:
            raise UserError(
                f"discriminator.reads: the {self.reads} has no features; expected the other network, or no discriminator"
            )
        for depth in self.depths:
            if depth not in known:
                raise UserError(
                    f"discriminator.depths: '{depth}' is not a depth of the {self.reads}{did_you_mean(depth, known)}"
                )
        if self.heads == "channel_mean":
            return ChannelMean(self.depths)
        return Discriminator(self.reads, {depth: known[depth] for depth in self.depths}, self.width)


class RunSettings(Settings):
    """What every run has."""

    run_dir: Path
    """Folder of the run: configuration, statistics, samples, checkpoints, export and report."""
    resume: str = "auto"
    """`auto` continues from the newest whole checkpoint of the run folder, `never` refuses a folder that has one; or a checkpoint's path."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything random."""
    steps: int = Field(ge=1)
    """Steps: updates of the generator, or of the network that a teacher run trains."""
    batch_size: int = Field(64, ge=1)
    """Images in an update, over all processes."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most images that one process holds at once: gradients are accumulated over the rest. null holds them all."""
    data_workers: int = Field(0, ge=0)
    """Processes that read data for each training process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; `auto` takes a CUDA device if there is one."""
    precision: Annotated[Literal["fp32", "bf16"], BeforeValidator(_known_precision)] = "fp32"
    """Precision that the networks compute in; with `bf16` weights stay in float32. `no` and `float32` are fp32, `bfloat16` is bf16."""
    activation_checkpointing: bool = False
    """Hold no more than the inputs of the networks' blocks for the way back, and run each block again there: less memory, more time, the same run."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of stats.jsonl."""
    sample_every: int = Field(500, ge=1)
    """Steps between sample grids."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    monitor_every: int = Field(500, ge=1)
    """Steps between measurements of the distance to the data during training."""
    monitor_images: int = Field(2000, ge=2)
    """Images in each measurement: a small count, not to be compared with an evaluation."""
    monitor_protocol: str = "auto"
    """Protocol of the measurements; `python -m eval protocols` explains them. `auto` takes fd-pixel for images of at most 1024 values, and else
    fd-effnet where its package is installed."""
    monitor_weights: str | None = None
    """File or folder of the protocol's feature network; null takes the installed or downloaded one."""
    monitor_reference: Path | None = None
    """File of published statistics (.npz, .pkl) to measure against; null measures against the run's training data."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers besides stats.jsonl."""
    stop_when: tuple[StopCondition, ...] = ()
    """Bounds at which the run stops before its last step, such as [{measure: monitor/fd_pixel, above: 0.5}]: saved, exported, exit code 3."""


class DistillRun(RunSettings):
    """Distil a teacher into a generator of one step or a few."""

    task: Literal["distill"]
    """What the run does: `distill`, or `train_teacher`."""
    data: choice_of("data.sources") | None = None  # type: ignore[valid-type]
    """Source of real images, for the discriminator and for measuring; null does without."""
    teacher: choice_of("teachers")  # type: ignore[valid-type]
    """The pretrained diffusion model."""
    prompts: choice_of("data.prompts") | None = None  # type: ignore[valid-type]
    """Source of prompts for a teacher that takes text; null for one that does not."""
    teacher_samples: TeacherSamplesSettings | None = None
    """Samples of the teacher, for the discriminator (`discriminator.real`) and for the regression term; null draws none."""
    generator: GeneratorSettings = GeneratorSettings()
    """The student."""
    fake: FakeScoreSettings = FakeScoreSettings()
    """The fake score."""
    objective: ObjectiveSettings
    """What the generator minimises."""
    guidance: GuidanceScales = GuidanceScales()
    """Classifier-free guidance of teacher and fake score."""
    discriminator: DiscriminatorSettings | None = None
    """Tells real images from student samples; null does without."""
    ratio: RatioSettings | None = None
    """Density ratio from the discriminator's logit; null where the divergence needs none."""
    terms: tuple[choice_of("objectives.terms"), ...] = ()  # type: ignore[valid-type]
    """What is added to the objective."""

    @model_validator(mode="after")
    def _fits_together(self) -> DistillRun:
        for term in self.terms:
            term.check(self)
        if getattr(self.teacher, "attention", None) == "flash" and self.precision == "fp32":
            raise ValueError(
                "teacher.attention: flash computes in half precision; expected precision: bf16, or attention: sdpa or xformers"
            )
        if self.ratio is not None and self.ratio.source == "exact":
            if self.fake.network.name != "exact":
                raise ValueError(
                    f"ratio.source: exact needs fake.network exact; found {self.fake.network.name}"
                )
            if self.discriminator is not None:
                raise ValueError("ratio.source: exact takes no discriminator; expected discriminator: null")
        elif self.discriminator is None and self.ratio is not None:
            raise ValueError("ratio: needs a discriminator; expected settings under 'discriminator'")
        if self.discriminator is not None and self.discriminator.real == "data" and self.data is None:
            raise ValueError(
                "discriminator: needs real images; expected a source under 'data', or real: teacher"
            )
        if (
            self.discriminator is not None
            and self.discriminator.real == "data"
            and self.prompts is not None
            and self.prompts.name != "captions"
        ):
            raise ValueError(
                "prompts: real images are shown with their own; expected captions, or discriminator.real: teacher"
            )
        if self.ratio is not None and self.ratio.low >= self.ratio.high:
            raise ValueError(
                f"ratio.low: is {self.ratio.low:g}; expected less than ratio.high, {self.ratio.high:g}"
            )
        if self.ratio is None and self.objective.uses_ratio:
            raise ValueError("objective.divergence: needs a density ratio; expected settings under 'ratio'")
        names = [term.name for term in self.terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"terms: {twice} stands there twice; expected once")
        return self

    @model_validator(mode="after")
    def _teacher_samples_fit(self) -> DistillRun:
        as_real = self.discriminator is not None and self.discriminator.real == "teacher"
        if self.teacher_samples is None:
            if as_real:
                raise ValueError(
                    "discriminator.real: teacher needs stored samples; expected settings under 'teacher_samples'"
                )
        elif not (as_real or self.needs_pairs):
            raise ValueError(
                "teacher_samples: are used by nothing; expected discriminator.real: teacher, or a regression term"
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
    def own_noise(self) -> tuple[str, ...]:
        """Fields of a batch with the noise that the discriminator alone sees."""
        anew = any(term.adds_own_noise for term in self.terms)
        own = self.discriminator is not None and self.discriminator.own_noise
        return ("gan_noise",) * anew + ("discriminator_noise", "real_noise") * own

    @property
    def needs_pairs(self) -> bool:
        """A term compares the student with the teacher's samples from the same noise."""
        return any(term.needs_pairs for term in self.terms)


class NetworkSettings(Settings):
    """Our own U-Net; resolution, channels and label count are the data's."""

    width: int = Field(32, ge=4)
    """Channels of the finest level."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level over those of the finest; each level halves the resolution."""
    blocks: int = Field(2, ge=1)
    """Residual blocks of each encoder level; a decoder level has one more."""
    attention: tuple[int, ...] = ()
    """Resolutions with self-attention."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the residual blocks, while training."""
    sigma_data: float = Field(0.5, gt=0)
    """Standard deviation of the data, for EDM's preconditioning."""


class TrainTeacherRun(RunSettings):
    """Train a diffusion teacher on data."""

    task: Literal["train_teacher"]
    """What the run does: `distill`, or `train_teacher`."""
    data: choice_of("data.sources")  # type: ignore[valid-type]
    """Source of real images."""
    network: NetworkSettings = NetworkSettings()
    """Sizes of the U-Net."""
    noise_levels: NoiseLevels = LogNormal()
    """Noise levels to learn at."""
    label_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of images shown without their label, so that the teacher can be guided."""
    optimizer: OptimizerSettings = OptimizerSettings(betas=(0.9, 0.999))
    """Its optimiser."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the average of its weights, per step."""


RunConfig = DistillRun | TrainTeacherRun
RUN = TypeAdapter(Annotated[RunConfig, Field(discriminator="task")])
