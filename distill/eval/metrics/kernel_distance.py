"""Kernel Inception Distance (Bińkowski et al. 2018, "Demystifying MMD GANs").

It is unbiased for any number of images.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from jaxtyping import Float, Float64
from scipy import stats
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked
from distill.eval.metrics.neighbours import check_dimensions
from distill.eval.metrics.subsets import shuffled

BLOCK = 1000
"""Images of each side in a block; fewer if there are not enough for `MIN_BLOCKS` blocks."""
MIN_BLOCKS = 10


class KernelDistanceResult(TypedDict):
    """The distance, its standard error and the ends of its 95 % interval."""

    kid: float
    kid_deviation: float
    kid_interval: list[float]


def kernel(a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """Compute the polynomial kernel (a.b/d + 1)^3 of all pairs."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def squared_mmd(a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]) -> float:
    """Compute the unbiased estimate of the squared maximum mean discrepancy.

    For two draws of one distribution it is negative about as often as positive.
    """
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(sum(within) - 2 * kernel(a, b).mean())


def kernel_distance(made: Float[Tensor, "n _"], real: Float[Tensor, "m _"]) -> KernelDistanceResult:
    """Compute the distance as the mean over disjoint blocks of both sides.

    `kid_deviation` is the standard error of that mean, exact because the blocks are independent.
    `kid_interval` contains the distance with a confidence of 95 %, by Student's t with one degree of freedom
    fewer than blocks.
    """
    made, real = checked(made), checked(real)
    check_dimensions(made, real)
    least = min(len(made), len(real))
    if least < 2 * MIN_BLOCKS:
        raise UserError(
            f"{least} images; expected at least {2 * MIN_BLOCKS} on both sides for a kernel distance"
        )
    size = min(BLOCK, least // MIN_BLOCKS)
    count = least // size
    made_blocks = made[shuffled(len(made), seed=0)].split(size)[:count]
    real_blocks = real[shuffled(len(real), seed=1)].split(size)[:count]
    estimates = [squared_mmd(a, b) for a, b in zip(made_blocks, real_blocks, strict=True)]
    values = torch.tensor(estimates, dtype=torch.float64)
    mean = float(values.mean())
    error = float(values.std() / len(values) ** 0.5)
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    return {"kid": mean, "kid_deviation": error, "kid_interval": [mean - reach, mean + reach]}
