"""What the metrics look at: a feature is a function from quantised images to (n, d) float64. For tiny images the pixels are complete."""

from __future__ import annotations

from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from distill.errors import UserError
from distill.images import to_bytes


def quantise(images: Float[Tensor, "n c h w"], origin: str = "images") -> UInt8[Tensor, "n c h w"]:
    """[-1, 1] to 0..255 as an image file would hold it. Real and generated images all pass here.

    Raises UserError, naming `origin`, where a value is not finite: a byte could not tell.
    """
    broken = ~images.isfinite().flatten(1).all(1)
    if broken.any():
        raise UserError(
            f"{origin}: {int(broken.sum())} of {len(images)} images have values that are not finite, first image {int(broken.int().argmax())}"
        )
    return to_bytes(images)


def pixels(images: UInt8[Tensor, "n c h w"]) -> Float64[Tensor, "n d"]:
    """The pixels themselves in [-1, 1], flattened. Computed in float64, so that equal bytes are equal features in every program."""
    return (images.double() / 127.5 - 1).flatten(1)


def checked(features: Tensor) -> Float64[Tensor, "n d"]:
    """The features in float64. Raises UserError where they are not finite numbers, one row per image."""
    if features.ndim != 2 or not features.is_floating_point():
        raise UserError(f"features: {features.dtype} of {tuple(features.shape)}; expected floating point of (images, dimensions)")
    broken = ~features.isfinite().all(1)
    if broken.any():
        raise UserError(f"features: {int(broken.sum())} of {len(features)} rows are not finite, first row {int(broken.int().argmax())}")
    return features.double()
