"""One step of a run on a device: its metrics, and how it changes the weights.

`python -m tests.helpers.one_step FOLDER METHOD DEVICE STEPS [--key value ...]` makes steps in a process whose
functions are not checked as they run, since torch.compile cannot look into the checks.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from distill.training.device.kernels import chosen_kernels
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from tests.helpers.runs import read_run, write_run

DATA = {"name": "digits"}
CRITIC = {"depths": ["bottleneck"], "width": 8}
OUTCOME = "outcome.pt"
PLAIN = {"name": "adam", "lr": 1e-2, "eps": 1.0}
"""Adam whose update is nearly proportional to the gradient; the default's is its sign, up to rounding."""
METHODS: dict[str, dict[str, Any]] = {
    "score_matching": {"objective": {"name": "score_matching"}},
    "distribution_matching": {
        "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
        "data": DATA,
        "discriminator": {**CRITIC, "reads": "teacher", "r1": {"weight": 1.0}, "optimizer": PLAIN},
        "ratio": {},
        "terms": [{"name": "gan", "weight": 0.1}],
    },
    "expanded_divergence": {
        "objective": {"name": "expanded_divergence", "divergence": "forward_kl"},
        "data": DATA,
        "discriminator": {
            **CRITIC,
            "reads": "fake",
            "own_noise": True,
            "r1": {"weight": 1.0, "approximate": True},
            "optimizer": PLAIN,
        },
        "ratio": {},
        "terms": [{"name": "gan", "weight": 0.1, "own_noise": True}],
    },
    "reward": {
        "objective": {"name": "score_matching"},
        "terms": [
            {
                "name": "reward",
                "weight": 0.1,
                "rewards": [{"name": "classifier", "path": "assets/digits-classifier"}],
            }
        ],
    },
}
"""Runs that have every objective, discriminators on both networks, both kinds of R1, and a reward."""


@dataclasses.dataclass(frozen=True)
class Step:
    """The outcome of the last of some steps, on the CPU."""

    metrics: dict[str, float]
    changes: dict[str, Tensor]
    """Change of each network's weights since the beginning, (n,)."""


def take_steps(
    folder: Path,
    method: str,
    device: torch.device,
    *overrides: str,
    steps: int = 1,
    detailed: bool = True,
) -> Step:
    """Make the first steps of a small run, in full float32 unless the overrides say otherwise."""
    folder.mkdir(exist_ok=True)
    settings = {"generator": {"optimizer": PLAIN}, "fake": {"optimizer": PLAIN}, **METHODS[method]}
    file = write_run(folder, batch_size=8, device=device.type, tf32=False, **settings)
    config = read_run(file, *overrides)
    AcceleratorState._reset_state(reset_partial_state=True)
    processes = build_processes(config)
    with chosen_kernels(config, processes.device):
        task = Distillation(config, processes, Clock(processes.device))
        before = weights(task)
        task.start(0)
        for step in range(steps):
            metrics = task.update(step, detailed)
            task.finite.end_step(step)
        task.finite.settle()
        after = weights(task)
    return Step(
        {name: float(value) for name, value in metrics.items()},
        {name: (after[name] - before[name]).cpu() for name in before},
    )


def take_steps_apart(folder: Path, method: str, device: torch.device, *overrides: str, steps: int) -> Step:
    """Make steps in a process of its own. They are not detailed, since a detailed step is not compiled."""
    words = [str(folder), method, device.type, str(steps), *overrides]
    done = subprocess.run([sys.executable, "-m", __name__, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Step(**torch.load(folder / OUTCOME))


def main() -> None:
    folder, method, device, steps, *overrides = sys.argv[1:]
    outcome = take_steps(
        Path(folder), method, torch.device(device), *overrides, steps=int(steps), detailed=False
    )
    torch.save(dataclasses.asdict(outcome), Path(folder) / OUTCOME)


def weights(task: Distillation) -> dict[str, Tensor]:
    """Return a copy of the trained weights of each network as one vector, in at least float32."""
    return {
        name: torch.cat([weight.detach().float().flatten() for weight in updater.weights])
        for name, updater in task.updaters.items()
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of `expected`."""
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
