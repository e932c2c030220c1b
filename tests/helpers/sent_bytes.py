"""What one process of several really holds, and sends in a step.

`python -m tests.helpers.sent_bytes OUTCOME COUNT FILE...` measures runs on the first of COUNT processes whose
others do not exist: torch's fake process group answers for them, with numbers that mean nothing. With
torch.distributed.run and COUNT 0 it measures the processes that exist.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict
from unittest import mock

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import local
from distill.training.pretraining.teacher import TeacherTraining
from distill.training.settings import RunConfig, TrainTeacherRun
from tests.helpers.runs import ENVIRONMENT

GATHERS = ("all_gather_single", "all_gather_into_tensor")
SCATTERS = ("reduce_scatter_single", "reduce_scatter_tensor")
"""Functions by which `fully_shard` gathers and scatters: the first that this version of torch has."""
SMALL = 1024
"""Averages of fewer bytes are numbers for the log."""


class Measured(TypedDict):
    """Bytes of a process: what it holds, what it sends in a step, and what a step adds at most."""

    weights: int
    optimiser: int
    average: int
    gathered: float
    scattered: float
    averaged: float
    peak: int


def measure_runs(outcome: Path, files: Sequence[Path], count: int, alone: bool = True) -> list[Measured]:
    """Measure runs in processes of their own: one of `count`, or with `alone` false all of them."""
    words = ["-m", __name__, str(outcome), str(count if alone else 0), *map(str, files)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *([] if alone else launcher), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    measured: list[Measured] = json.loads(outcome.read_text())
    return measured


def main() -> None:
    outcome, count, *files = sys.argv[1:]
    measured = []
    for file in files:
        config = read_config(Path(file))
        processes = fake_processes(config, int(count)) if int(count) else build_processes(config)
        measured.append(measure(config, processes))
        if processes.is_main:
            Path(outcome).write_text(json.dumps(measured))
        if not int(count):
            processes.wait()
        distributed.destroy_process_group()


def fake_processes(config: RunConfig, count: int) -> Processes:
    """Return the first of so many processes of one machine, of which the others are made up."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    device = torch.device("cpu")
    copies, shards = config.sharding.sizes(count, 1)
    if not config.sharding.is_on:
        return Processes(device, 0, count)
    sizes, names = ((shards,), ("shard",)) if copies == 1 else ((copies, shards), ("replicate", "shard"))
    return Processes(device, 0, count, 1, init_device_mesh("cpu", sizes, mesh_dim_names=names))


def measure(config: RunConfig, processes: Processes) -> Measured:
    """Make three steps of a run, and measure the last two."""
    task: Distillation | TeacherTraining
    if isinstance(config, TrainTeacherRun):
        task = TeacherTraining(config, processes, Clock())
        averaged = task.network
        networks: list[nn.Module] = [averaged]
    else:
        task = Distillation(config, processes, Clock())
        averaged = task.generator
        networks = [task.teacher, *task.teacher.frozen_components().values(), averaged, task.networks.fake]
        networks += [critic for critic in [task.networks.discriminator] if critic is not None]
    task.start(0)
    task.update(0, detailed=False)
    with counted() as sent:
        task.update(1, detailed=False)
    peak = peak_allocated(lambda: task.update(2, detailed=False))
    states = [updater.state_tensors().items() for updater in task.updaters.values()]
    averages = zip(task.ema.average.parameters(), averaged.parameters(), strict=True)
    return Measured(
        weights=held(parameter for network in networks for parameter in network.parameters()),
        optimiser=sum(local(value).nbytes for state in states for name, value in state if value.ndim),
        average=held(average for average, own in averages if own.requires_grad),
        gathered=sent["gathered"],
        scattered=sent["scattered"],
        averaged=sent["averaged"],
        peak=peak,
    )


def held(parameters: Iterable[nn.Parameter]) -> int:
    """Return the bytes of a process's parts of parameters; memory that several share is there once."""
    parts = {local(parameter).data_ptr(): local(parameter) for parameter in parameters}
    return sum(part.nbytes for part in parts.values())


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Count the bytes that this process sends within the block, by kind."""
    sent = {"gathered": 0.0, "scattered": 0.0, "averaged": 0.0}

    def count(names: Sequence[str], kind: str, bytes_of: Callable[[Mapping[str, Any], int], float]) -> Any:
        name = next(name for name in names if hasattr(distributed, name))
        original = getattr(distributed, name)

        def call(*tensors: Any, **settings: Any) -> Any:
            named = {**dict(zip(("output", "input"), tensors, strict=False)), **settings}
            sent[kind] += bytes_of(named, distributed.get_world_size(settings.get("group")))
            return original(*tensors, **settings)

        return mock.patch.object(distributed, name, call)

    def of_average(tensors: Mapping[str, Any], size: int) -> float:
        averaged: Tensor = tensors["output"]
        return 2 * (size - 1) / size * averaged.nbytes if averaged.nbytes >= SMALL else 0.0

    with (
        count(GATHERS, "gathered", lambda tensors, size: (size - 1) * tensors["input"].nbytes),
        count(SCATTERS, "scattered", lambda tensors, size: (size - 1) * tensors["output"].nbytes),
        count(["all_reduce"], "averaged", of_average),
    ):
        yield sent


def peak_allocated(act: Callable[[], Any]) -> int:
    """Return the bytes that torch's allocator held at most, beyond those that it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        act()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
