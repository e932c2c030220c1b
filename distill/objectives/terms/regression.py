"""DMD's regression (Yin et al. 2024, eq. 9) of the student's images onto the teacher's.

Both images come from the same unit noise z: the teacher's ODE starts at sigma_max z, the student at
init_noise_to_signal z.

DP-DMD (Wu et al. 2026, arXiv:2602.03139) trains a student of several steps in two roles: the first step by
regression alone, which keeps the teacher's diversity, the later ones by the objective, without a gradient to
the first. Their target is the velocity of the teacher's guided path over its first steps from the same noise,
with a weight of 0.05 (authors' code); that is a squared distance of images, to `teacher_samples.anchor`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from distill.objectives.choices import Distance
from distill.objectives.term import Term, TermContext, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import LossOutput


class Settings(TermSettings):
    """Distance to the teacher's stored samples from the same noise."""

    needs_pairs: ClassVar[bool] = True
    name: Literal["regression"] = "regression"
    distance: Distance = "l2"
    """Distance between the images: `l2` is the mean squared difference; `pseudo_huber` is nearly its root,
    which outliers change less."""
    step: Literal[1] | None = None
    """1 trains the first step of a student of several steps by this term alone, and the later ones by the
    objective, as DP-DMD does. null, the default, is for a student of one step, which both train."""
    c: float = Field(0.00054, gt=0)
    """Root mean square difference at which pseudo-Huber turns from squared to linear; the default is that of
    Song and Dhariwal (2023). A smaller value makes it linear sooner."""

    def check(self, run: TermContext) -> None:
        if run.pair_sampler is None:
            raise ValueError(
                "terms: regression needs the teacher's samples; expected settings under 'teacher_samples'"
            )
        if run.pair_sampler.churn > 0:
            raise ValueError(
                "teacher_samples.sampler.churn: regression needs the deterministic sampler; expected 0"
            )
        if run.student_steps > 1 and self.step is None:
            raise ValueError(
                f"terms: regression pairs an image with one noise, and {run.student_steps} steps take as "
                "many; expected generator.steps: 1, or regression's step: 1"
            )
        if run.student_steps == 1 and self.step == 1:
            raise ValueError(
                "terms: regression's step: 1 leaves the objective no step of generator.steps: 1; "
                "expected 2 or more, or step: null"
            )

    @property
    def steps_alone(self) -> int:
        return self.step or 0

    def build(self) -> Term:
        """Return the term as a function of the student and the pairs."""
        return partial(regression, distance=self.distance, c=self.c)


def regression(inputs: TermInputs, distance: Distance = "l2", c: float = 0.00054) -> LossOutput:
    """Return m, or sqrt(m + c^2) - c, (b,).

    m is the mean square difference of G(z) and x over a pair's dimensions.
    """
    from distill.types import LossOutput

    if inputs.pairs is None:
        raise ValueError("terms: regression needs pairs")
    z, cond, x = inputs.pairs.z, inputs.pairs.cond, inputs.pairs.x
    squared = (inputs.generator(z, cond) - x).square().flatten(1).mean(1)
    return LossOutput(squared if distance == "l2" else (squared + c**2).sqrt() - c)
