"""Choose the micro-batch of a run by the memory that a dry run predicts for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from distill.training.dry_run.cost import Cost, measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.pretraining import (
    meta_autoencoder_of,
    simulate_autoencoder_training,
    simulate_teacher_training,
)
from distill.training.dry_run.step import META, SimulatedStep, meta_teacher_of
from distill.training.settings import RunConfig, TrainAutoencoderRun, TrainTeacherRun

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


def largest_micro_batch(config: RunConfig, processes: int, memory: int, nodes: int = 1) -> MicroBatch:
    """Return the largest micro-batch, of those that divide a process's batch, that fits the free memory.

    If one image does not fit, it is one image nevertheless. `nodes` are the machines of the processes.
    """
    plan = Plan.of(config, processes, nodes)
    own = plan.of_one_process(config)
    whole = own.batch_size
    cost = _predictor(own, plan)
    for size in range(whole, 1, -1):
        if whole % size == 0 and _bound(cost(1), cost(2), size) <= budget(memory):
            peak = cost(size).peak
            if peak <= budget(memory):
                return MicroBatch(size, whole, peak, memory)
    return MicroBatch(1, whole, cost(1).peak, memory)


def _bound(one: Cost, two: Cost, size: int) -> int:
    """Return a lower bound of the peak with a micro-batch of this size, from those of one and two images.

    The peak of an action is a maximum of linear functions of the size, so that it is not below the line
    through any two, but for the little that a whole batch saves. What does not fit by the bound is not
    measured, which would take seconds for large networks.
    """
    lines = [added + (size - 1) * (two.added[name] - added) for name, added in one.added.items()]
    return round(0.95 * (sum(one.held.values()) + max(lines)))


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


def _predictor(config: RunConfig, plan: Plan) -> Callable[[int], Cost]:
    """Return the predicted cost of one process as a function of its micro-batch."""
    build = _builder(config, plan)

    @functools.cache
    def cost(size: int) -> Cost:
        run = config.model_copy(update={"micro_batch_size": size})
        return measure_own(build(run), run)

    return cost


def _builder(config: RunConfig, plan: Plan) -> Callable[[RunConfig], SimulatedStep]:
    """Return how the step of this run, with any micro-batch, is simulated; the teacher is built once."""
    if isinstance(config, TrainAutoencoderRun):
        autoencoder = meta_autoencoder_of(config)
    else:
        network = meta_teacher_of(config)

    def build(run: RunConfig) -> SimulatedStep:
        if isinstance(run, TrainTeacherRun):
            return simulate_teacher_training(run, network, plan)
        if isinstance(run, TrainAutoencoderRun):
            return simulate_autoencoder_training(run, autoencoder, plan)
        return simulate_distillation(run, network, META, plan)

    return build
