"""Steps of a small run in float64, on one process or several: its weights and metrics afterwards.

`python -m tests.helpers.split_steps FILE OUTCOME STEPS [--key value ...]` makes them in processes that
torch.distributed.run starts, or alone.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.training.batches import Batch
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.parallel.filling import whole_state
from tests.helpers.runs import ENVIRONMENT, read_run

STEPS = 5


def take_split_steps(
    file: Path, *overrides: str, processes: int = 1, steps: int = STEPS
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Make the first steps of a run in processes of their own.

    Returns the trained weights by network and name, and the metrics of each step.
    """
    outcome = file.parent / "outcome.pt"
    outcome.unlink(missing_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = ["-m", __name__, str(file), str(outcome), str(steps), *overrides]
    command = [sys.executable, *(launcher if processes > 1 else []), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(outcome)


def main() -> None:
    file, outcome, steps, *overrides = sys.argv[1:]
    torch.set_default_dtype(torch.float64)
    config = read_run(Path(file), *overrides)
    processes = build_processes(config)
    task = Distillation(config, processes, Clock())
    task.start(0)
    task.stream = in_double(task.stream)
    metrics = []
    for step in range(int(steps)):
        made = task.update(step, detailed=True)
        task.finite.end_step(step)
        metrics.append({name: processes.mean(value.double()).item() for name, value in made.items()})
    task.finite.settle()
    networks = {name: task.modules[name] for name in task.updaters} | {"average": task.ema.average}
    states = {name: whole_state(network, processes) for name, network in networks.items()}
    if processes.is_main:
        weights = {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
        torch.save((weights, metrics), outcome)
    processes.wait()
    if processes.count > 1:
        torch.distributed.destroy_process_group()


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
