"""A measurement cheap enough to be made during training: the Fréchet distance over few images, to be followed, not to be quoted."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from distill.data import DataSettings, DataSource
from eval.features import pixels, quantise
from eval.frechet import Statistics, frechet_distance

LARGEST = 4096
"""Most pixels of an image that the monitor measures: a covariance of more is too costly to look at during training."""


def build_monitor(data: DataSettings | None) -> Monitor | None:
    """The monitor of a run on this data, or None where there are none or the images are too large."""
    source = None if data is None else data.load("train")
    return Monitor(source) if source is not None and math.prod(source.image_shape) <= LARGEST else None


class Monitor:
    """Images (n, c, h, w) in [-1, 1] -> `{"fd_pixel": distance}` to the real images, whose statistics are computed once.

    `real` is a data source, or such a tensor of images. Raises UserError where images are not finite, of another shape, or fewer than 2.
    """

    def __init__(self, real: DataSource | Tensor, batch_size: int = 512) -> None:
        def batches():
            for start in range(0, len(real), batch_size):
                rows = range(start, min(start + batch_size, len(real)))
                images = real[start : rows.stop] if isinstance(real, Tensor) else torch.stack([real[row][0] for row in rows])
                yield pixels(quantise(images, "real images"))

        self.real = Statistics.streaming(batches())

    def __call__(self, images: Float[Tensor, "n c h w"]) -> dict[str, float]:
        made = Statistics.of(pixels(quantise(images.cpu(), "generated images")))
        return {"fd_pixel": frechet_distance(made, self.real)}
