"""First steps of small runs in float64, on one process or several: weights and metrics afterwards.

`python -m tests.helpers.split_steps FILE` makes them, alone or in the processes that torch.distributed.run
starts. The file, JSON, lists the runs.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from distill.training.batches import Batch
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.parallel.filling import whole_state
from distill.training.parallel.processes import Processes
from distill.training.settings import DistillRun
from tests.helpers.runs import ENVIRONMENT, read_run


class Steps(NamedTuple):
    """The outcome of the first steps of a run."""

    weights: dict[str, Tensor]
    """Weights of the trained networks and of the average, by network and name."""
    metrics: list[dict[str, float]]
    """Metrics of each step, averaged over processes."""


def take_split_steps(
    files: Mapping[str, Path], folder: Path, overrides: Sequence[str] = (), processes: int = 1, steps: int = 5
) -> dict[str, Steps]:
    """Make the first steps of runs, by name, in processes of their own."""
    runs = {name: [str(file), *overrides] for name, file in files.items()}
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"runs": runs, "steps": steps, "folder": str(folder)}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", __name__, str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert done.returncode == 0, done.stderr[:6000]
    return {name: Steps(*torch.load(folder / f"{name}.pt")) for name in files}


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    torch.set_default_dtype(torch.float64)
    for name, (file, *overrides) in plan["runs"].items():
        config = read_run(Path(file), *overrides)
        processes = build_processes(config)
        made = take_steps(config, processes, plan["steps"])
        if processes.is_main:
            torch.save(tuple(made), Path(plan["folder"]) / f"{name}.pt")
    processes.wait()
    if processes.count > 1:  # an open group may abort Python
        distributed.destroy_process_group()


def take_steps(config: DistillRun, processes: Processes, steps: int) -> Steps:
    """Make the first steps of a run in this process; the main one returns the weights."""
    task = Distillation(config, processes, Clock())
    if not list(task.teacher.parameters()):  # a mixture of Gaussians, which is made in float32
        task.teacher.double()
    task.start(0)
    task.stream = in_double(task.stream)
    metrics = []
    for step in range(steps):
        made = task.update(step, detailed=True)
        task.finite.end_step(step)
        metrics.append({name: processes.mean(value.double()).item() for name, value in made.items()})
    task.finite.settle()
    networks = {name: task.modules[name] for name in task.updaters} | {"average": task.ema.average}
    states = {name: whole_state(network, processes) or {} for name, network in networks.items()}
    return Steps({f"{name}.{key}": value for name in states for key, value in states[name].items()}, metrics)


def in_double(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of a run in float64."""
    for batch in batches:
        yield as_double(batch)


def as_double(value: Any) -> Any:
    """Return a batch, or a part of one, with its floating-point tensors in float64."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: as_double(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: as_double(entry) for key, entry in value.items()}
    return value


if __name__ == "__main__":
    main()
