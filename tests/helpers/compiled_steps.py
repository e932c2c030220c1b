"""Make steps of a run uncompiled and compiled, in a process whose functions are not checked as they run.

The checks of types wrap every function, which torch.compile cannot look into.
`python -m tests.helpers.compiled_steps CONFIG HOW BACKEND` prints the largest relative difference.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch._dynamo.backends.debugging import aot_eager

from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.pretraining.teacher import TeacherTraining

STEPS = 4


def difference(config: Path, how: str, backend: str) -> float:
    """Return the largest relative difference of any metric over four steps; the third is detailed."""
    command = [sys.executable, "-W", "error::UserWarning:distill", "-m", __name__, str(config), how, backend]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout.split()[-1])


def make_steps(config: Path, how: str) -> list[dict[str, float]]:
    """Return the metrics of each step, and the sum of the trained weights after the last."""
    run = read_config(config, [f"--compile={how}"])
    kind: Any = TeacherTraining if run.task == "train_teacher" else Distillation
    task = kind(run, build_processes(run), Clock())
    task.start(0)
    metrics = []
    for step in range(STEPS):
        found = task.update(step, detailed=step == 2)
        metrics.append({name: float(value) for name, value in found.items()})
    weights = [value for value in task.ema.average.state_dict().values() if value.is_floating_point()]
    metrics[-1]["weights"] = float(sum(weight.double().abs().sum() for weight in weights))
    return metrics


def only_tensors(graph: torch.fx.GraphModule, inputs: list[Any], **settings: Any) -> Any:
    """Compile by `aot_eager`, and refuse a number as input: for another one CUDA graphs would be recorded."""
    numbers = [value for value in inputs if not isinstance(value, torch.Tensor)]
    assert not numbers, f"a compiled function takes the numbers {numbers}"
    return aot_eager(graph, inputs, **settings)


def main() -> None:
    config, how, backend = sys.argv[1:]
    compile_ = torch.compile
    # `aot_eager` takes seconds and tells whether a function can be compiled.
    is_traced_only = backend == "aot_eager"
    chosen = only_tensors if is_traced_only else backend
    no_options = {"options": None} if is_traced_only else {}
    torch.compile = lambda function, **given: compile_(function, **{**given, "backend": chosen, **no_options})
    pairs = zip(make_steps(Path(config), "none"), make_steps(Path(config), how), strict=True)
    differences = [
        abs(value - compiled[name]) / (abs(value) + 1e-3)
        for eager, compiled in pairs
        for name, value in eager.items()
    ]
    print(max(differences))


if __name__ == "__main__":
    main()
