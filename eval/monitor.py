"""A measurement cheap enough to be made during training: the Fréchet distance over few images, to be followed, not to be quoted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from distill.data import DataSource
from distill.run_settings import DistillRun, RunConfig
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from eval.features import quantise
from eval.features.pixels import pixels
from eval.frechet import Statistics, frechet_distance
from eval.laboratory import LaboratoryMonitor

LARGEST = 4096
"""Most pixels of an image that the monitor measures: a covariance of more is too costly to look at during training."""


def build_monitor(config: RunConfig) -> Callable[[Tensor], dict[str, float]] | None:
    """The monitor of a run: its distance to the data, or in the laboratory to the teacher; None where neither can be measured."""
    if config.data is None:
        teacher = config.teacher.load() if isinstance(config, DistillRun) and isinstance(config.teacher, LaboratoryTeacher) else None
        return None if teacher is None else LaboratoryMonitor(teacher)
    source = config.data.load("train")
    return Monitor(source) if math.prod(source.image_shape) <= LARGEST else None


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
