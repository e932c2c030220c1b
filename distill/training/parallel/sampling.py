"""Rows that processes compute together: each makes an equal part of them, and all get the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.types import to_device

Sample = Callable[[Sequence[int]], Tensor]
"""Returns the images of these numbers, on the CPU."""


@runtime_checkable
class Monitor(Protocol):
    """Measures images (n, c, h, w) in [-1, 1], or vectors (n, d), during training."""

    def features(self, images: Tensor) -> Tensor:
        """Return what is measured of each image, (n, ...). A process calls it with its part of the images."""
        ...

    def measure(self, features: Tensor) -> Mapping[str, float]:
        """Return measurements by name, from the features of all images."""
        ...


def own_rows(count: int, processes: Processes) -> list[int]:
    """Return the numbers of this process's rows of `count`.

    All parts have one length, since sharded networks compute on all processes at once: the last parts repeat
    the last row.
    """
    size = -(-count // processes.count)
    start = processes.index * size
    return [min(row, count - 1) for row in range(start, start + size)]


def gather_rows(own: Tensor, count: int, processes: Processes) -> Tensor:
    """Return all rows of a tensor, in order, from the parts that `own_rows` describes.

    Those of several processes are on the CPU; one process gets its own tensor, where it is.
    """
    if processes.count == 1:
        return own
    return processes.gather(to_device(own, processes.device))[:count].cpu()


def sample_together(sample: Sample, count: int, processes: Processes) -> Tensor:
    """Return the images 0 to `count` - 1, of which each process makes a part."""
    return gather_rows(sample(own_rows(count, processes)), count, processes)


def measure_together(
    monitor: Monitor, sample: Sample, count: int, processes: Processes
) -> Mapping[str, float]:
    """Measure `count` images, of which each process makes a part and extracts the features.

    The images are not gathered, since they may be large. All processes get the measurements of the first.
    """
    images = sample(own_rows(count, processes))
    with raised_by_all(processes):
        own = monitor.features(images)
    features = gather_rows(own, count, processes)
    measured: Mapping[str, float] = {}
    with raised_by_all(processes):
        if processes.is_main:
            measured = monitor.measure(features)
    return processes.main_object(measured)
