"""What networks predict, and x_0 from it: pure functions of x_t = alpha x_0 + sigma eps, for any alpha and sigma.

    epsilon          eps                         x_0 = (x_t - sigma eps)/alpha                       Ho et al. 2020
    v_prediction     v = alpha eps - sigma x_0   x_0 = (alpha x_t - sigma v)/(alpha^2 + sigma^2)     Salimans and Ho 2022
    flow_prediction  u = eps - x_0               x_0 = (x_t - sigma u)/(alpha + sigma)               Liu et al. 2022
    score            s = -eps/sigma              x_0 = (x_t + sigma^2 s)/alpha                       Song et al. 2021
    sample           x_0

The names are those of diffusers' schedulers, where they have one.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow_prediction", "score", "sample"]


def to_x0(
    prediction: PredictionType,
    output: Float[Tensor, "b ..."],
    x_t: Float[Tensor, "b ..."],
    alpha: Float[Tensor, "b ..."],
    sigma: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """x_0 from what a network predicts at x_t; alpha and sigma broadcast against it."""
    match prediction:
        case "epsilon":
            return (x_t - sigma * output) / alpha
        case "v_prediction":
            return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
        case "flow_prediction":
            return (x_t - sigma * output) / (alpha + sigma)
        case "score":
            return (x_t + sigma**2 * output) / alpha
        case "sample":
            return output


def from_x0(
    prediction: PredictionType,
    x0: Float[Tensor, "b ..."],
    x_t: Float[Tensor, "b ..."],
    alpha: Float[Tensor, "b ..."],
    sigma: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """What a network of this kind predicts where its x_0 is this one: the inverse of `to_x0`. sigma must not be 0, but for `sample`."""
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


def target_weight(
    prediction: PredictionType, alpha: Float[Tensor, " b"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Weight of the squared error of x_0, (b,), that makes it the squared error of what the network predicts."""
    match prediction:
        case "epsilon":
            return (alpha / sigma) ** 2
        case "v_prediction":
            return ((alpha**2 + sigma**2) / sigma) ** 2
        case "flow_prediction":
            return ((alpha + sigma) / sigma) ** 2
        case "score":
            return (alpha / sigma**2) ** 2
        case "sample":
            return alpha.new_ones(()).expand(alpha.shape)
