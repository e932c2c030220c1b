"""A measurement that is cheap enough for training: a Fréchet distance of few images, not to be quoted."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.data import InMemory
from distill.data.images import check_images
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from distill.training.settings import DistillRun, RunConfig
from distill.types import DataSource
from eval.features import Extractor, load_extractor
from eval.features.pixels import MAX_VALUES
from eval.fid.reference import read_statistics
from eval.frechet import Statistics, frechet_distance
from eval.images.extraction import compute_features, compute_rows
from eval.images.processes import Processes
from eval.images.streams import DataImages
from eval.metrics.exact import LaboratoryMonitor
from eval.protocols import Protocol, default_protocol, distance_key, read_protocol

BLOCK = 512
"""Real images whose features are held at once."""


def build_monitor(config: RunConfig) -> Callable[[Tensor], dict[str, float]] | None:
    """Build the monitor of a run, None if nothing can be measured.

    It measures the distance to the data, or in the laboratory the distance to the teacher.
    """
    if config.data is None and config.monitor_reference is None:
        if isinstance(config, DistillRun) and isinstance(config.teacher, LaboratoryTeacher):
            return LaboratoryMonitor(config.teacher.load())
        return None
    source = None if config.data is None else config.data.load("train")
    protocol = choose_protocol(config, source)
    if protocol is None:
        return None
    if source is not None and protocol.features == "pixels" and math.prod(source.image_shape) > MAX_VALUES:
        return None
    device = Processes.of_environment().device(config.device)
    extractor = load_extractor(protocol.features, config.monitor_weights).to(device)
    if config.monitor_reference is not None:
        return Monitor(read_statistics(config.monitor_reference, protocol).statistics, protocol, extractor)
    assert source is not None
    return Monitor(source, protocol, extractor)


def choose_protocol(config: RunConfig, source: DataSource | None) -> Protocol | None:
    """Choose the protocol that is asked for, or else the one for such images.

    None if that one needs a package that is not installed.
    """
    if config.monitor_protocol != "auto":
        return read_protocol(config.monitor_protocol, "monitor_protocol:")
    if source is None:
        expected = "expected the name of the protocol of monitor_reference"
        raise UserError(f"monitor_protocol: auto follows the data; {expected}")
    try:
        return default_protocol(source.image_shape)
    except UserError as error:
        print(f"monitor_protocol: nothing is measured during training ({error})", file=sys.stderr)
        return None


class Monitor:
    """Measures the distance of images to real images, whose statistics are computed once.

    `real` is a data source, a tensor of images in [-1, 1], or statistics.
    """

    def __init__(
        self, real: DataSource | Tensor | Statistics, protocol: Protocol, extractor: Extractor
    ) -> None:
        self.protocol = protocol
        self.extractor = extractor
        self.name = distance_key(protocol.name)
        self.real = real if isinstance(real, Statistics) else self._real_statistics(real)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> dict[str, float]:
        """Measure images in [-1, 1]; the distance has the name of the protocol, such as fd_pixel."""
        check_images(images, "generated images")
        stream = _stream(InMemory(images.cpu(), None), "generated images")
        made = compute_features(stream, self.protocol, self.extractor)
        return {self.name: frechet_distance(made.statistics, self.real)}

    def _real_statistics(self, real: DataSource | Tensor) -> Statistics:
        """Compute the statistics of real images block by block: their features may not fit into memory."""
        source = InMemory(real, None) if isinstance(real, Tensor) else real
        stream = _stream(source, "real images")

        def blocks() -> Iterator[Tensor]:
            for start in range(0, len(stream), BLOCK):
                rows = range(start, min(start + BLOCK, len(stream)))
                yield compute_rows(stream, rows, self.protocol, self.extractor)["features"]

        return Statistics.streaming(blocks())


def _stream(source: DataSource, origin: str) -> DataImages:
    return DataImages(source, origin, {})
