"""A measurement cheap enough to be made during training: the Fréchet distance over few images, to be followed, not to be quoted."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from distill.training.settings import DistillRun, RunConfig
from distill.types import DataSource
from eval.features import Extractor, features_of, load_extractor, quantise
from eval.features.pixels import MAX_VALUES
from eval.fid.command import device_of
from eval.fid.reference import read_statistics
from eval.frechet import Statistics, frechet_distance
from eval.images.feature_store import prepare
from eval.images.processes import Processes
from eval.metrics.exact import LaboratoryMonitor
from eval.protocols import Protocol, default_protocol, distance_key, read_protocol

AT_ONCE = 512
"""Real images held at once."""


def build_monitor(config: RunConfig) -> Callable[[Tensor], dict[str, float]] | None:
    """The monitor of a run: its distance to the data, or in the laboratory to the teacher; None where neither can be measured.

    Raises UserError where the protocol is not known, or its feature network or the reference cannot be read.
    """
    if config.data is None and config.monitor_reference is None:
        teacher = (
            config.teacher.load()
            if isinstance(config, DistillRun) and isinstance(config.teacher, LaboratoryTeacher)
            else None
        )
        return None if teacher is None else LaboratoryMonitor(teacher)
    source = None if config.data is None else config.data.load("train")
    protocol = choose_protocol(config, source)
    if protocol is None or (
        source is not None and protocol.features == "pixels" and math.prod(source.image_shape) > MAX_VALUES
    ):
        return None
    extractor = load_extractor(protocol.features, config.monitor_weights).to(
        device_of(config.device, Processes.of_environment())
    )
    real = (
        source
        if config.monitor_reference is None
        else read_statistics(config.monitor_reference, protocol).statistics
    )
    assert real is not None
    return Monitor(real, protocol, extractor)


def choose_protocol(config: RunConfig, source: DataSource | None) -> Protocol | None:
    """The protocol that is asked for, or the one for such images; None where theirs needs a package that is not installed.

    Raises UserError where the one that is asked for is not known, or none is and published statistics are to be compared with.
    """
    if config.monitor_protocol != "auto":
        return read_protocol(config.monitor_protocol, "monitor_protocol:")
    if source is None:
        raise UserError(
            "monitor_protocol: auto follows the data; expected the name of the protocol of monitor_reference"
        )
    try:
        return default_protocol(source.image_shape)
    except UserError as error:
        print(f"monitor_protocol: nothing is measured during training ({error})", file=sys.stderr)
        return None


class Monitor:
    """Images (n, c, h, w) in [-1, 1] -> `{"fd_pixel": distance}`, or the protocol's name, to the real images, whose statistics are computed once.

    `real` is a data source, such a tensor of images, or their statistics. Raises UserError where images are not finite, of another shape, or fewer
    than 2.
    """

    def __init__(
        self, real: DataSource | Tensor | Statistics, protocol: Protocol, extractor: Extractor
    ) -> None:
        self.protocol, self.extractor = protocol, extractor
        self.name = distance_key(protocol.name)
        self.real = (
            real if isinstance(real, Statistics) else Statistics.streaming(map(self._features, _blocks(real)))
        )

    def __call__(self, images: Float[Tensor, "n c h w"]) -> dict[str, float]:
        made = Statistics.of(self._features(quantise(images.cpu(), "generated images")))
        return {self.name: frechet_distance(made, self.real)}

    def _features(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return features_of(self.extractor, torch.stack([prepare(image, self.protocol) for image in images]))[
            "features"
        ]


def _blocks(real: DataSource | Tensor) -> Iterator[UInt8[Tensor, "n c h w"]]:
    for start in range(0, len(real), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(real)))
        images = (
            real[start : rows.stop]
            if isinstance(real, Tensor)
            else torch.stack([real[row][0] for row in rows])
        )
        yield quantise(images, "real images")
