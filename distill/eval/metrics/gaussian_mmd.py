"""CMMD: the maximum mean discrepancy of CLIP's image embeddings (Jayasumana et al. 2024, "Rethinking FID").

Its kernel is Gaussian, exp(-|x - y|² / (2 SIGMA²)), and its estimate the biased one of Gretton et al. 2012,
eq. 5, as in the authors' code: pairs of an image with itself count.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from distill.eval.features import checked
from distill.eval.metrics.neighbours import squared_distances

SIGMA = 10.0
"""Bandwidth of the kernel, for embeddings of length 1."""
SCALE = 1000.0
"""Factor of the squared discrepancy, which makes it readable."""


class GaussianMMDResult(TypedDict):
    """The scaled squared discrepancy."""

    cmmd: float


def mean_kernel(a: Float64[Tensor, "n d"], b: Float64[Tensor, "m d"]) -> float:
    """Average the kernel over all pairs, block by block."""
    total = torch.zeros((), dtype=torch.float64)
    for block in squared_distances(a, b):
        total += block.div_(-2 * SIGMA**2).exp_().sum()
    return float(total) / (len(a) * len(b))


def gaussian_mmd(made: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> GaussianMMDResult:
    """Compute the squared discrepancy between generated and real embeddings, times `SCALE`."""
    made, real = checked(made), checked(real)
    squared = mean_kernel(made, made) + mean_kernel(real, real) - 2 * mean_kernel(made, real)
    return {"cmmd": SCALE * squared}
