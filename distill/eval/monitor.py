"""A measurement that is cheap enough for training: a Fréchet distance of few images, not to be quoted."""

from __future__ import annotations

import math
import sys

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import ProgressBar
from distill.data import InMemory
from distill.data.images import check_images
from distill.eval.features import AT_ONCE, Extractor, checked, load_extractor
from distill.eval.features.pixels import MAX_VALUES
from distill.eval.fid.reference import read_statistics
from distill.eval.frechet import Statistics, frechet_distance, shifted_sums
from distill.eval.images.extraction import compute_features, compute_rows
from distill.eval.images.streams import DataImages
from distill.eval.metrics.exact import LaboratoryMonitor
from distill.eval.protocols import Protocol, default_protocol, distance_key, read_protocol
from distill.publishing.run_record import note_of_features
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import Monitor
from distill.training.parallel.shards import row_range
from distill.training.run_folder import trained_features
from distill.training.settings import DistillRun, RunConfig
from distill.types import DataSource

BLOCK = 512
"""Real images whose features are held at once."""


def build_monitor(config: RunConfig, processes: Processes) -> Monitor | None:
    """Build the monitor of a run, None if nothing can be measured.

    It measures the distance to the data, or in the laboratory the distance to the teacher. All processes of
    the run call it: they share the work on the data.
    """
    if config.monitor_every is None:
        return None
    if config.data is None and config.monitor_reference is None:
        if isinstance(config, DistillRun) and isinstance(config.teacher, LaboratoryTeacher):
            return LaboratoryMonitor(config.teacher.load())
        return None
    images = None if config.data is None or config.data.holds_latents else config.data
    if images is None and config.monitor_reference is None:
        raise UserError(
            "monitor_every: compares images, and data holds latents; expected null, or statistics of images "
            "as monitor_reference"
        )
    source = None if images is None else images.load("train")
    protocol = choose_protocol(config, source, processes)
    if protocol is None:
        return None
    if source is not None and protocol.features == "pixels" and math.prod(source.image_shape) > MAX_VALUES:
        return None
    extractor = load_extractor(protocol.features, config.monitor_weights).to(processes.device)
    note = note_of_features(trained_features(config), protocol.features)
    if note is not None and processes.is_main:
        print(f"monitor_protocol: {protocol.name} measures what the run minimises; {note}", file=sys.stderr)
    if config.monitor_reference is not None:
        reference = read_statistics(config.monitor_reference, protocol).statistics
        return FrechetMonitor(reference, protocol, extractor, processes, is_trained=note is not None)
    assert source is not None
    return FrechetMonitor(source, protocol, extractor, processes, is_trained=note is not None)


def choose_protocol(config: RunConfig, source: DataSource | None, processes: Processes) -> Protocol | None:
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
        if processes.is_main:
            print(f"monitor_protocol: nothing is measured during training ({error})", file=sys.stderr)
        return None


class FrechetMonitor:
    """Measures the distance of images to real images, whose statistics are computed once.

    `real` is a data source, a tensor of images in [-1, 1], or statistics. `is_trained` says that the run is
    trained on the same features: the statistics then say so.
    """

    def __init__(
        self,
        real: DataSource | Tensor | Statistics,
        protocol: Protocol,
        extractor: Extractor,
        processes: Processes,
        is_trained: bool = False,
    ) -> None:
        self.protocol = protocol
        self.is_trained = is_trained
        self.extractor = extractor
        self.processes = processes
        self.name = distance_key(protocol.name)
        self.real = real if isinstance(real, Statistics) else self._real_statistics(real)

    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of images in [-1, 1]."""
        check_images(images, "generated images")
        stream = _stream(InMemory(images.cpu(), None), "generated images")
        return compute_features(stream, self.protocol, self.extractor).features

    def measure(self, features: Float[Tensor, "n d"]) -> dict[str, float]:
        """Measure images by their features; the distance has the name of the protocol, such as fd_pixel."""
        marks = {"trained_features": 1.0} if self.is_trained else {}
        return {self.name: frechet_distance(Statistics.of(features), self.real), **marks}

    def _real_statistics(self, real: DataSource | Tensor) -> Statistics:
        """Compute the statistics of real images, of which each process takes a part.

        They are read block by block, because their features may not fit into memory.
        """
        source = InMemory(real, None) if isinstance(real, Tensor) else real
        stream = _stream(source, "real images")

        def features_of(rows: range) -> Tensor:
            return compute_rows(stream, rows, self.protocol, self.extractor)["features"]

        # A shift near the mean; sums can only be added if all processes have the same.
        shift = self.processes.on_main(lambda: checked(features_of(range(len(stream))[:AT_ONCE])).mean(0))
        shift = self.processes.main_object(shift)
        assert shift is not None
        total, products = torch.zeros_like(shift), torch.zeros_like(torch.outer(shift, shift))
        own = row_range(len(stream), self.processes.index, self.processes.count)
        hidden = not self.processes.is_main
        bar = ProgressBar("features of real images", len(own), "images", hidden=hidden)
        with raised_by_all(self.processes), bar:
            for start in range(own.start, own.stop, BLOCK):
                block = features_of(range(start, min(start + BLOCK, own.stop)))
                block_total, block_products = shifted_sums(block, shift)
                total, products = total + block_total, products + block_products
                bar.update(len(block))
        return Statistics.from_sums(shift, self._sum(total), self._sum(products), len(stream))

    def _sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of the CPU over all processes."""
        return self.processes.sum(tensor.to(self.processes.device)).cpu()


def _stream(source: DataSource, origin: str) -> DataImages:
    return DataImages(source, origin, {})
