"""Outputs of networks of every type of prediction, from the x_0 that they predict."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distill.diffusion.prediction_types import PredictionType


def from_x0(
    prediction: PredictionType,
    x0: Float[Tensor, "b ..."],
    x_t: Float[Tensor, "b ..."],
    alpha: Float[Tensor, "b ..."],
    sigma: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """Convert x_0 to a network's output at x_t, the inverse of `to_x0`. sigma must not be 0, except for
    `sample`."""
    if prediction == "sample":
        return x0
    eps = (x_t - alpha * x0) / sigma
    match prediction:
        case "epsilon":
            return eps
        case "v_prediction":
            return alpha * eps - sigma * x0
        case "flow_prediction":
            return eps - x0
        case "score":
            return -eps / sigma
