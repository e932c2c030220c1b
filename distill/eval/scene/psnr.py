"""Peak signal-to-noise ratio: -10 log10 of the mean squared difference of colours in [0, 1], in decibels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

MAX_PSNR = 100.0
"""PSNR of equal images, for which the ratio is infinite, and of images that differ less than 1e-5."""


def psnr(first: Float[Tensor, "... c h w"], second: Float[Tensor, "... c h w"]) -> Tensor:
    """Return the PSNR of each pair of images in [0, 1]; the dimensions before c broadcast."""
    error = (first.double() - second.double()).square().mean((-3, -2, -1))
    return -10 * error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()
