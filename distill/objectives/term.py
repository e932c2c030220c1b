"""What may be added to an objective, one file each; the file's name is its name in the config."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from distill.config.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from distill.diffusion.guidance import CFGPrediction
    from distill.types import Condition, Generator, ImageModel, LossOutput, Pairs, Scores


@dataclasses.dataclass(frozen=True)
class TermInputs:
    """What a term may look at: the scores of a batch of student samples, its condition, the discriminator's logits, (b,) or (b, n), if there is
    one, the student itself, as many pairs of noise and the teacher's image, and the teacher's two sides at x_t, constants, if a term needs them; and
    `crop_positions` (b, 2), uniform in (0, 1), for a term that looks at a random place of each sample."""

    scores: Scores
    cond: Condition
    logits: Tensor | None
    generator: Generator
    pairs: Pairs | None
    sides: CFGPrediction | None = None
    crop_positions: Tensor | None = None


@runtime_checkable
class Term(Protocol):
    """A term of the generator's loss: a loss per sample, (b,)."""

    def __call__(self, inputs: TermInputs) -> LossOutput: ...


class TermSettings(Settings):
    """Settings of a term. `needs_discriminator` says that its gradient flows through the discriminator, `needs_pairs` that it looks at pairs,
    `needs_sides` that it looks at the teacher's predictions with the condition and without one."""

    needs_discriminator: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False
    needs_sides: ClassVar[bool] = False
    name: str
    weight: float = Field(ge=0)
    """Weight of the term in the generator's loss, relative to the objective per image dimension."""
    start_step: int = Field(0, ge=0)
    """Generator step from which the term counts."""
    warmup_steps: int = Field(0, ge=0)
    """Steps from there over which its weight rises linearly from zero."""

    @property
    def noises_anew(self) -> bool:
        """The discriminator sees the sample under noise of its own, not under that of the scores."""
        return False

    def check(self, model: ImageModel) -> None:
        """Raise UserError where the term cannot be for this model."""

    def build(self) -> Term:
        """The term as a function. One that holds networks is a module; they are never trained, nor saved with a run."""
        raise TypeError(f"{type(self).__name__} is not a term")

    def meta(self) -> Term:
        """The term for a dry run, without anything that must be read; `left_out` names what that is."""
        return self.build()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the networks that a dry run does not count."""
        return ()
