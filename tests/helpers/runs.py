"""Short runs of small networks: their configurations, how tests start them, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.folder import checkpoints
from distill.storage.tensors import load_tensors
from distill.training.config import read_config
from distill.training.launch import launch
from distill.training.parallel.sampling import Monitor
from distill.training.settings import DistillRun
from distill.training.trainer import STATS
from tests.helpers.random_teacher import save_random_teacher

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
"""Environment of the processes that tests start."""
TRAIN = ("train.py",)
"""The program that they run; another one may be a module, as in `-m tests.helpers.broken_noise`."""


def write_run(folder: Path, **settings: Any) -> Path:
    """Write `run.yaml` of a short run on the CPU into a folder, and return the file.

    `settings` replace the defaults. Without another `teacher` it is the small U-Net of random weights in
    `folder/teacher`, which is written unless it is there.
    """
    defaults: dict[str, Any] = {
        "task": "distill",
        "run_dir": str(folder / "run"),
        "steps": 2,
        "batch_size": 2,
        "device": "cpu",
        "log_every": 1,
    }
    if settings.get("task", "distill") == "distill":
        teacher = folder / "teacher"
        if "teacher" not in settings and not teacher.is_dir():
            save_random_teacher(teacher)
        defaults["teacher"] = {"name": "native", "path": str(teacher)}
        defaults["objective"] = {"name": "score_matching"}
    return _write_yaml(folder / "run.yaml", {**defaults, **settings})


def write_finished_run(run_dir: Path, teacher: dict[str, Any], **settings: Any) -> Path:
    """Write `config.yaml` of a run that is over into its folder, which is made, and return the folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    defaults = {
        "task": "distill",
        "run_dir": str(run_dir),
        "teacher": teacher,
        "steps": 1,
        "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
    }
    _write_yaml(run_dir / "config.yaml", {**defaults, **settings})
    return run_dir


def _write_yaml(file: Path, content: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


def read_run(file: Path, *overrides: str) -> DistillRun:
    """Read the configuration of a distillation with overrides as on the command line."""
    config = read_config(file, overrides)
    assert isinstance(config, DistillRun)
    return config


def train_run(file: Path, *overrides: str, monitor: Monitor | None = None, exit_code: int = 0) -> Path:
    """Train a run in this process, check how it ends, and return its folder."""
    config = read_config(file, overrides)
    # accelerate keeps the precision of the process's earlier run otherwise.
    AcceleratorState._reset_state(reset_partial_state=True)
    assert launch(config, lambda config, processes: monitor) == exit_code
    return config.run_dir


def train_command(
    file: Path, *overrides: str, processes: int = 1, program: tuple[str, ...] = TRAIN
) -> list[str]:
    """Return the command that trains a run in one or more processes of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), *program, str(file), *overrides]


def train_in_processes(
    file: Path, *overrides: str, processes: int = 1, program: tuple[str, ...] = TRAIN
) -> subprocess.CompletedProcess[str]:
    """Train a run in one or more processes, and return what they printed."""
    command = train_command(file, *overrides, processes=processes, program=program)
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def read_lines(run: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's `stats.jsonl`."""
    return [json.loads(line) for line in (run / STATS).read_text().splitlines()]


def logged_steps(run: Path) -> list[int]:
    """Return the steps that have a line in a run's `stats.jsonl`."""
    return [line["step"] for line in read_lines(run)]


def checkpoint_names(run: Path) -> list[str]:
    """Return the names of a run's checkpoints, oldest first."""
    return [path.name for path in checkpoints(run)]


def checkpoint_tensors(run: Path) -> dict[str, Tensor]:
    """Return every tensor of a run's newest checkpoint under `file:name`."""
    files = sorted(checkpoints(run)[-1].glob("*.safetensors"))
    return {f"{file.name}:{name}": value for file in files for name, value in load_tensors(file).items()}


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that two dictionaries hold the same tensors, bit for bit."""
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert different == []


def refusal(file: Path, *overrides: str) -> str:
    """Return the one line that refuses a run with these overrides."""
    with pytest.raises(UserError) as error:
        train_run(file, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)
