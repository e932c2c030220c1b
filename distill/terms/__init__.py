"""What may be added to an objective, one file each; the file's name is its name in the config."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from distill.registry import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import Condition, Generator, LossOutput, Pairs, Scores


@dataclasses.dataclass(frozen=True)
class Student:
    """What a term may look at: the scores of a batch of student samples, its condition, the discriminator's logits, if there is one, the
    student itself, and as many pairs of noise and the teacher's image, if a term needs them."""

    scores: Scores
    cond: Condition
    logits: Tensor | None
    generator: Generator
    pairs: Pairs | None


@runtime_checkable
class Term(Protocol):
    """A term of the generator's loss: a loss per sample, (b,)."""

    def __call__(self, student: Student) -> LossOutput: ...


class TermSettings(Settings):
    """Settings of a term. `differentiates_logits` says that its gradient flows through the discriminator, `needs_pairs` that it looks at pairs."""

    differentiates_logits: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False
    name: str
    weight: float = Field(ge=0)
    """Weight of the term in the generator's loss, relative to the objective per image dimension."""
    start_step: int = Field(0, ge=0)
    """Generator step from which the term counts."""

    def build(self) -> Term:
        """The term as a function."""
        raise TypeError(f"{type(self).__name__} is not a term")
