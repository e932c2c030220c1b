"""Choose the micro-batch of a run by the memory that a dry run predicts for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from distill.training.dry_run.cost import measure_own
from distill.training.dry_run.step import (
    META,
    SimulatedStep,
    meta_teacher_of,
    simulate_distillation,
    simulate_teacher_training,
)
from distill.training.settings import RunConfig, TrainTeacherRun

GIB = 1 << 30
MARGIN = 0.1
"""Fraction of the free memory that is left for CUDA's libraries and for gaps between blocks of memory."""


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """The number of images that one process computes at once, and why."""

    size: int
    whole: int
    """Images of one process in a batch."""
    peak: int
    """Bytes that the run is predicted to hold at most."""
    memory: int
    """Bytes of the device that are free."""

    def __str__(self) -> str:
        verb = "for" if self.peak <= budget(self.memory) else "though it may take"
        return (
            f"micro_batch_size: auto takes {self.size} of a process's {self.whole} images at once, "
            f"{verb} {self.peak / GIB:.1f} GiB of {self.memory / GIB:.1f} free"
        )


def largest_micro_batch(config: RunConfig, processes: int, memory: int) -> MicroBatch:
    """Return the largest micro-batch, of those that divide a process's batch, that fits the free memory.

    If one image does not fit, it is one image nevertheless.
    """
    whole = max(1, config.batch_size // processes)
    peak = _predictor(config, whole)
    sizes = [size for size in range(whole, 0, -1) if whole % size == 0]
    # A step's peak is a maximum of linear functions of the size, so that the line through two sizes is below
    # it: sizes that do not fit by the line need no measurement.
    one = peak(1)
    slope = peak(2) - one if whole > 1 else 0
    for size in sizes:
        if one + slope * (size - 1) <= budget(memory):
            found = peak(size)
            if found <= budget(memory):
                return MicroBatch(size, whole, found, memory)
    return MicroBatch(1, whole, one, memory)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that this process can take; None for other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused


def budget(memory: int) -> int:
    """Return the bytes that a run may hold in a free memory of so many bytes."""
    return int((1 - MARGIN) * memory)


def _predictor(config: RunConfig, whole: int) -> Callable[[int], int]:
    """Return the predicted peak in bytes of one process as a function of its micro-batch."""
    build = _builder(config)
    known: dict[int, int] = {}

    def peak(size: int) -> int:
        if size not in known:
            run = config.model_copy(update={"batch_size": whole, "micro_batch_size": size})
            known[size] = measure_own(build(run), run).peak
        return known[size]

    return peak


def _builder(config: RunConfig) -> Callable[[RunConfig], SimulatedStep]:
    """Return how the step of this run, with any micro-batch, is simulated; the teacher is built once."""
    network = meta_teacher_of(config)

    def build(run: RunConfig) -> SimulatedStep:
        if isinstance(run, TrainTeacherRun):
            return simulate_teacher_training(run, network)
        return simulate_distillation(run, network, META)

    return build
