"""Weighting: the units in which teacher and fake score are compared, and the weight of each sample."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from distill.objectives.choices import WeightingName
from distill.types import Scores

Weighting = WeightingName
"""`score` compares the scores, as the mathematics is written. `prediction` compares the predictions of x_0,
which puts all noise levels on one scale. `dmd` also divides by each sample's mean |x_0 - teacher| (Yin et al.
2024, eq. 8, and SiD)."""

FLOOR = 1e-5
"""Minimum of the mean |x_0 - teacher| in the division, as in SiD."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product per sample: (b, ...), (b, ...) -> (b,)."""
    return (a * b).flatten(1).sum(1)


def descent(scores: Scores, direction: Tensor, weighting: Weighting) -> Tensor:
    """Return a surrogate loss per sample, (b,), whose descent moves the sample along a constant direction.

    The direction is a difference of two predictions of x_0, (b, ...). With `score` the gradient with respect
    to x_t is minus the difference of the scores. With `prediction` the gradient with respect to x_0 is minus
    the difference of the predictions, and `dmd` divides that by the sample's mean |x_0 - teacher|.
    """
    # In units of the prediction the factor alpha = dx_t/dx_0 is left out as well.
    moved = scores.x_t if weighting == "score" else scores.x0
    return -sample_weight(scores, weighting) * dot(unit(scores, weighting) * direction.detach(), moved)


def sample_weight(scores: Scores, weighting: Weighting) -> Tensor:
    """Return the weight of each sample, (b,), which is a constant for the gradient."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting '{weighting}': expected one of {', '.join(get_args(Weighting))}")
    distance = (scores.x0 - scores.teacher).detach().abs().flatten(1).mean(1)
    if weighting == "dmd":
        return 1 / distance.clamp_min(FLOOR)
    return distance.new_ones(distance.shape)


def unit(scores: Scores, weighting: Weighting) -> Tensor:
    """Return the factor from predictions to the units of the comparison: alpha/sigma^2 for scores, else 1."""
    if weighting == "score":
        return scores.alpha / scores.sigma.square()
    return scores.alpha.new_ones(())
