"""In which units the two networks are compared, and how each sample is weighted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import Scores

Weighting = Literal["score", "prediction", "dmd"]
"""`score`: as the mathematics is written, w = 1. `prediction`: in units of the x_0 prediction, so that noise levels compare.
`dmd`: that, divided by each sample's mean |x_0 - teacher| (Yin et al. 2024, eq. 8; SiD uses the same)."""

FLOOR = 1e-5
"""Smallest mean |x_0 - teacher| that is divided by, as in SiD."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per sample: (b, ...), (b, ...) -> (b,)."""
    return (a * b).flatten(1).sum(1)


def descent(scores: Scores, direction: Tensor, weighting: Weighting) -> Tensor:
    """A surrogate loss per sample, (b,), whose descent moves the sample along a difference of two predictions of x_0, (b, ...), held constant.

    With `score` its gradient with respect to x_t is minus the difference of the scores; with `prediction` that with respect to x_0 is minus
    the difference of the predictions, and with `dmd` that over the sample's mean |x_0 - teacher|.
    """
    # In units of the prediction the factor alpha = dx_t/dx_0 is left out as well.
    moved = scores.x_t if weighting == "score" else scores.x0
    return -sample_weight(scores, weighting) * dot(unit(scores, weighting) * direction.detach(), moved)


def sample_weight(scores: Scores, weighting: Weighting) -> Tensor:
    """The weight of each sample, (b,), a constant for the gradient. Raises ValueError for an unknown weighting."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting '{weighting}': expected one of {', '.join(get_args(Weighting))}")
    distance = (scores.x0 - scores.teacher).detach().abs().flatten(1).mean(1)
    return 1 / distance.clamp_min(FLOOR) if weighting == "dmd" else distance.new_ones(distance.shape)


def unit(scores: Scores, weighting: Weighting) -> Tensor:
    """What turns a difference of predictions into the units compared in: alpha/sigma^2 for scores, else 1."""
    return scores.alpha / scores.sigma.square() if weighting == "score" else scores.alpha.new_ones(())
