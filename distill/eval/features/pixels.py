"""The pixels as features, which are complete for tiny images."""

from __future__ import annotations

import math

from jaxtyping import Float64, Shaped
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import Extractor, Function

MAX_VALUES = 4096
"""Maximum number of values of an image.

With more, a covariance takes hours, and a distance between so many pixels says little.
"""


def pixels(images: Shaped[Tensor, "n c h w"]) -> Float64[Tensor, "n d"]:
    """Map levels 0..255 to [-1, 1] and flatten each image, of at most `MAX_VALUES` values.

    Computes in float64, so that equal bytes are equal features in every program.
    """
    check_size(tuple(images.shape[1:]))
    return (images.double() / 127.5 - 1).flatten(1)


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse images with too many values for a feature vector."""
    if math.prod(shape) > MAX_VALUES:
        raise UserError(
            f"images of {shape}: their {math.prod(shape)} values are no features; "
            f"expected at most {MAX_VALUES}; for larger images python -m eval fid --protocol fd-effnet"
        )


def load(weights: str | None) -> Extractor:
    """Return the pixels as an extractor, which has no weights."""
    if weights is not None:
        raise UserError(f"--weights {weights}: pixels have no weights; leave them out")
    return Function(pixels, "pixels")
