"""The pixels themselves: complete features of tiny images."""

from __future__ import annotations

from jaxtyping import Float64, Shaped
from torch import Tensor

from distill.errors import UserError
from eval.features import Extractor, Function


def pixels(images: Shaped[Tensor, "n c h w"]) -> Float64[Tensor, "n d"]:
    """Levels 0..255 in [-1, 1], flattened. Computed in float64, so that equal bytes are equal features in every program."""
    return (images.double() / 127.5 - 1).flatten(1)


def load(weights: str | None) -> Extractor:
    if weights is not None:
        raise UserError(f"--weights {weights}: pixels have no weights; leave them out")
    return Function(pixels, "pixels")
