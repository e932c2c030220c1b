"""Fréchet distance relative to that of real images, FDr (Yang et al. 2026, "Representation Fréchet loss").

The unit is the distance of held-out real images to the same reference. So distances by features of different
scales can be compared and averaged: 1 is as near to the reference as other real images are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.subsets import some

ROUNDING = 1e-9
"""Share of the covariance's trace below which a distance is rounding."""
SUBSET_SEED = 0
"""Seed by which `some` draws images of the side that has more."""


class FrechetRatioResult(TypedDict):
    """The ratio, the distance of the held-out real images, and the number of images on both sides of it."""

    fdr: float
    fdr_real: float
    fdr_count: int


def frechet_ratio(
    made: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"], real: Statistics
) -> FrechetRatioResult:
    """Divide the distance of generated images by that of as many held-out real images.

    A distance is biased upwards by an amount that falls with the number of images, so both distances are of
    equally many: of the side that has more, a random part counts. Raises UserError unless they exceed the
    dimension, since covariances of fewer images are singular.
    """
    count, dimension = min(len(made), len(held_out)), made.shape[1]
    if count <= dimension:
        raise UserError(
            f"{len(held_out)} held-out and {len(made)} generated images; expected more than the {dimension} "
            "dimensions of the features on both sides"
        )
    unit = frechet_distance(Statistics.of(some(held_out, count)), real)
    if not unit > ROUNDING * float(real.cov.trace()):
        raise UserError("the held-out images are at the distance 0; expected others than the reference's")
    distance = frechet_distance(Statistics.of(some(made, count)), real)
    return {"fdr": distance / unit, "fdr_real": unit, "fdr_count": count}


def mean_ratio(ratios: Sequence[float]) -> float:
    """Compute FDr^k, the arithmetic mean of the ratios by k kinds of features."""
    return sum(ratios) / len(ratios)
