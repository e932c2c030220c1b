"""Kernel Inception Distance (Bińkowski et al. 2018, "Demystifying MMD GANs"): unbiased whatever the number of images."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64
from scipy import stats
from torch import Tensor

from distill.config.errors import UserError
from eval.features import checked
from eval.metrics.subsets import shuffled

BLOCK = 1000
"""Images of each side in a block; fewer where there are too few for `MIN_BLOCKS`."""
MIN_BLOCKS = 10


def kernel(a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """(a.b/d + 1)^3."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def squared_mmd(a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy; below zero as often as not where both are of one distribution."""
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(sum(within) - 2 * kernel(a, b).mean())


def kernel_distance(made: Float[Tensor, "n _"], real: Float[Tensor, "m _"]) -> dict[str, Any]:
    """`kid`, the mean over disjoint blocks; `kid_deviation`, the standard error of that mean, exact because the blocks are independent; and
    `kid_interval`, which holds the distance with a confidence of 95 %, by Student's t with as many degrees of freedom as blocks less one.

    Raises UserError where there are too few images, or the dimensions differ.
    """
    made, real = checked(made), checked(real)
    if made.shape[1] != real.shape[1]:
        raise UserError(
            f"features of {made.shape[1]} and of {real.shape[1]} dimensions; expected the same features on both sides"
        )
    least = min(len(made), len(real))
    if least < 2 * MIN_BLOCKS:
        raise UserError(
            f"{least} images; expected at least {2 * MIN_BLOCKS} on both sides for a kernel distance"
        )
    size = min(BLOCK, least // MIN_BLOCKS)
    blocks = [
        features[shuffled(len(features), seed)].split(size)[: least // size]
        for seed, features in enumerate((made, real))
    ]
    values = torch.tensor([squared_mmd(a, b) for a, b in zip(*blocks, strict=True)], dtype=torch.float64)
    mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    return {"kid": mean, "kid_deviation": error, "kid_interval": [mean - reach, mean + reach]}
