"""DMD's regression (Yin et al. 2024, eq. 9): the student's image of a noise against the teacher's ODE endpoint from the same noise.

The teacher's ODE starts at sigma_max z and the student at its own entry, init_noise_to_signal z: the unit noise z is what they share.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from distill.objectives.term import Term, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import LossOutput

Distance = Literal["l2", "pseudo_huber"]


class Settings(TermSettings):
    """Distance to the teacher's stored samples from the same noise."""

    needs_pairs: ClassVar[bool] = True
    name: Literal["regression"] = "regression"
    distance: Distance = "l2"
    """`l2`: mean squared difference; `pseudo_huber`: nearly its root, which outliers move less."""
    c: float = Field(0.00054, gt=0)
    """Root mean square difference at which pseudo-Huber turns from squared to linear (Song and Dhariwal 2023)."""

    def build(self) -> Term:
        """The term as a function of the student and the pairs."""
        return partial(regression, distance=self.distance, c=self.c)


def regression(inputs: TermInputs, distance: Distance = "l2", c: float = 0.00054) -> LossOutput:
    """With m the mean square difference of G(z) and x over a pair's dimensions: m, or sqrt(m + c^2) - c; (b,).

    Raises ValueError where there are no pairs.
    """
    from distill.types import LossOutput

    if inputs.pairs is None:
        raise ValueError("terms: regression needs pairs")
    z, cond, x = inputs.pairs.z, inputs.pairs.cond, inputs.pairs.x
    squared = (inputs.generator(z, cond) - x).square().flatten(1).mean(1)
    return LossOutput(squared if distance == "l2" else (squared + c**2).sqrt() - c)
