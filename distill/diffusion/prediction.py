"""Types of prediction and their conversion to x_0, for x_t = alpha x_0 + sigma eps with any alpha and sigma.

type             output                     x_0                                       source
epsilon          eps                        (x_t - sigma eps)/alpha                   Ho et al. 2020
v_prediction     v = alpha eps - sigma x_0  (alpha x_t - sigma v)/(alpha^2 + sigma^2) Salimans and Ho 2022
flow_prediction  u = eps - x_0              (x_t - sigma u)/(alpha + sigma)           Liu et al. 2022
score            s = -eps/sigma             (x_t + sigma^2 s)/alpha                   Song et al. 2021
sample           x_0                        x_0
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distill.diffusion.prediction_types import PredictionType


def to_x0(
    prediction: PredictionType,
    output: Float[Tensor, "b ..."],
    x_t: Float[Tensor, "b ..."],
    alpha: Float[Tensor, "b ..."],
    sigma: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """Convert a network's output at x_t to x_0; alpha and sigma broadcast against x_t."""
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


def target_weight(
    prediction: PredictionType, alpha: Float[Tensor, " b"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return the weight, (b,), that turns the squared error of x_0 into that of the network's output."""
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
