"""The generator's side of the adversarial game: softplus(-logit), the non-saturating loss (Goodfellow et al. 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from distill.terms import Student, Term, TermSettings

if TYPE_CHECKING:
    from distill.types import LossOutput


class Settings(TermSettings):
    """Adversarial loss on the noised student sample."""

    differentiates_logits: ClassVar[bool] = True
    name: Literal["gan"] = "gan"

    def build(self) -> Term:
        """The term as a function of the discriminator's logits."""
        return gan


def gan(student: Student) -> LossOutput:
    """softplus(-logit) per sample. Raises ValueError where there is no discriminator."""
    from torch.nn.functional import softplus

    from distill.types import LossOutput

    if student.logits is None:
        raise ValueError("terms: gan needs a discriminator")
    return LossOutput(softplus(-student.logits))
