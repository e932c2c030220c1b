"""The pixels themselves: complete features of tiny images."""

from __future__ import annotations

import math

from jaxtyping import Float64, Shaped
from torch import Tensor

from distill.config.errors import UserError
from eval.features import Extractor, Function

MAX_VALUES = 4096
"""Most values of an image: a covariance of more takes hours, and a distance of so many pixels says little."""


def pixels(images: Shaped[Tensor, "n c h w"]) -> Float64[Tensor, "n d"]:
    """Levels 0..255 in [-1, 1], flattened. Computed in float64, so that equal bytes are equal features in every program.

    Raises UserError where an image has more than `MAX_VALUES` values.
    """
    check_size(tuple(images.shape[1:]))
    return (images.double() / 127.5 - 1).flatten(1)


def check_size(shape: tuple[int, ...]) -> None:
    """Raises UserError where an image has too many values for a feature vector."""
    if math.prod(shape) > MAX_VALUES:
        found = f"images of {shape}: their {math.prod(shape)} values are no features"
        raise UserError(
            f"{found}; expected at most {MAX_VALUES}; for larger images python -m eval fid --protocol fd-effnet"
        )


def load(weights: str | None) -> Extractor:
    if weights is not None:
        raise UserError(f"--weights {weights}: pixels have no weights; leave them out")
    return Function(pixels, "pixels")
