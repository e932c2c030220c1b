"""Terms added to the objective: their inputs, and the settings they share.

The terms are the files of `distill/objectives/terms`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, model_validator

from distill.config.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill.diffusion.noise_levels import NoiseLevels
    from distill.diffusion.samplers import Heun
    from distill.types import Condition, Generator, ImageModel, LossOutput, Pairs, Prediction, Scores


@dataclasses.dataclass(frozen=True)
class TermInputs:
    """Everything that a term may read, for a batch of student samples."""

    scores: Scores
    cond: Condition
    generator: Generator
    teacher: Prediction
    """The teacher's prediction at x_t, with its conditional and unconditional sides if a term needs them."""
    logits: Tensor | None = None
    """The discriminator's logits at x_t, (b,) or (b, n), if there is a discriminator."""
    pairs: Pairs | None = None
    """b pairs of noise and the teacher's image, if a term needs them."""
    crop_positions: Tensor | None = None
    """Positions of each sample's crop, (b, 2), uniform in (0, 1)."""
    z: Tensor | None = None
    """Noise of which the generator made the samples, (b, *noise_shape), for terms that read the generator
    itself."""


@runtime_checkable
class Term(Protocol):
    """A term of the generator's loss: a loss per sample, (b,)."""

    def __call__(self, inputs: TermInputs) -> LossOutput: ...


class Reference(NamedTuple):
    """Images that count as real for a term: those of the data, or the teacher's samples; at most `limit`."""

    source: Literal["data", "teacher"]
    limit: int


@runtime_checkable
class StatefulTerm(Protocol):
    """A `Term` that compares with real images, and remembers what it saw in the steps before."""

    def __call__(self, inputs: TermInputs) -> LossOutput: ...

    def begin(self, image_shape: tuple[int, ...], device: torch.device) -> nn.Module:
        """Make what the term remembers, for images of this shape, and return it for checkpoints."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images in [-1, 1], (b, d)."""
        ...

    def prepare(self, real: Tensor) -> None:
        """Take the features of all real images, (n, d)."""
        ...

    def commit(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Remember the step that ends; `gather` concatenates the tensors of all processes."""
        ...


@runtime_checkable
class TermContext(Protocol):
    """The settings of a run that decide whether a term can be part of it."""

    @property
    def has_discriminator(self) -> bool: ...
    @property
    def pair_sampler(self) -> Heun | None:
        """The sampler of the stored teacher samples, None if there are none."""
        ...

    @property
    def student_steps(self) -> int:
        """Network evaluations of the student."""
        ...

    @property
    def student_network(self) -> str:
        """Name of the student's architecture."""
        ...


class TermSettings(Settings):
    """Settings that all terms share, and the inputs that a term needs."""

    needs_discriminator: ClassVar[bool] = False
    """Its gradient flows through the discriminator's logits."""
    needs_pairs: ClassVar[bool] = False
    """It reads pairs of noise and the teacher's image."""
    needs_both_sides: ClassVar[bool] = False
    """It reads the teacher's conditional and unconditional predictions."""
    name: str
    weight: float = Field(ge=0)
    """Weight of the term in the generator's loss, relative to the objective per image dimension. With 0 it
    is computed and logged without an effect; leave the term out to save its cost."""
    start_step: int = Field(0, ge=0)
    """Step of the run from which the term counts, including the steps of `fake.warmup_steps`; 0 is from the
    first."""
    warmup_steps: int = Field(0, ge=0)
    """Steps after `start_step` over which the weight rises linearly from zero; 0 starts with the full weight.
    """
    stop_step: int | None = Field(None, ge=1)
    """Step of the run from which the term no longer counts. null, the default, keeps it to the end. A
    regression that ends early holds the student near the teacher's modes while it learns, and not to the
    teacher's faults afterwards."""
    cooldown_steps: int = Field(0, ge=0)
    """Steps before `stop_step` over which the weight falls linearly to zero; 0 stops at the full weight."""

    @model_validator(mode="after")
    def _stops_after_it_starts(self) -> TermSettings:
        if self.stop_step is not None and self.stop_step <= self.start_step:
            raise ValueError(
                f"stop_step: is {self.stop_step}; expected more than start_step, {self.start_step}"
            )
        if self.stop_step is None and self.cooldown_steps:
            raise ValueError("cooldown_steps: goes with stop_step; expected a step")
        return self

    @property
    def steps_alone(self) -> int:
        """Number of the student's first steps that this term alone trains, and the objective does not."""
        return 0

    @property
    def adds_own_noise(self) -> bool:
        """True if the term adds noise of its own to the sample."""
        return False

    @property
    def own_noise_levels(self) -> NoiseLevels | None:
        """Levels of that noise; None for those of the fake score's updates."""
        return None

    @property
    def stays_below_step(self) -> bool:
        """True if that noise stays below the level at which the student's last step entered."""
        return False

    @property
    def reads_both_sides(self) -> bool:
        """True if it reads both of the teacher's predictions at the objective's x_t."""
        return self.needs_both_sides and not self.adds_own_noise

    @property
    def reference(self) -> Reference | None:
        """Real images that the term compares with; None for most terms, which compare with none."""
        return None

    @property
    def trained_features(self) -> tuple[str, ...]:
        """Names in `eval/features` of features that the term trains; they do not judge the student."""
        return ()

    @property
    def differentiates_logits(self) -> bool:
        """True if its gradient flows through the logits at x_t."""
        return self.needs_discriminator and not self.adds_own_noise

    def counts_at(self, step: int) -> bool:
        """Tell whether the term counts at a step."""
        return self.start_step <= step and (self.stop_step is None or step < self.stop_step)

    def weight_at(self, step: int) -> float:
        """Return the weight at a step at which the term counts."""
        factor = min(1.0, (step - self.start_step + 1) / (self.warmup_steps + 1))
        if self.stop_step is not None:
            factor = min(factor, (self.stop_step - step) / (self.cooldown_steps + 1))
        return self.weight * factor

    def check(self, run: TermContext) -> None:
        """Raise ValueError if a run with these settings cannot have this term."""

    def check_model(self, model: ImageModel) -> None:
        """Raise UserError if this teacher cannot have this term."""

    def build(self) -> Term:
        """Return the term as a function.

        A term that holds networks is a module; they are never trained, nor saved with a run.
        """
        raise TypeError(f"{type(self).__name__} is not a term")

    def meta(self) -> Term:
        """Return the term for a dry run, without the networks named in `left_out`."""
        return self.build()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the networks that a dry run does not count."""
        return ()
