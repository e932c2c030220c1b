"""Two processes over gloo learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from distill.networks.folder import checkpoints
from tests.helpers.random_teacher import save_random_teacher

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(tmp_path: Path, steps: int) -> None:
    save_random_teacher(tmp_path / "teacher")
    config = {
        "task": "distill",
        "run_dir": "set below",
        "data": {"name": "digits"},
        "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
        "steps": 3,
        "batch_size": 6,
        "generator": {"steps": steps},
        "objective": {"name": "expanded_divergence", "divergence": "jensen_shannon"},
        "discriminator": {
            "depths": ["4"],
            "width": 8,
            "real": "teacher",
            "r1": {"weight": 0.1, "at": "features"},
        },
        "teacher_samples": {"path": "set below", "count": 9, "sampler": {"steps": 2}},
        "ratio": {"bins": 2},
        "terms": [
            {"name": "gan", "weight": 0.1},
            *([{"name": "regression", "weight": 0.2}] if steps == 1 else []),
        ],
        "device": "cpu",
        "log_every": 1,
        "monitor_images": 8,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    launchers = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }
    lines = {}
    for name, launcher in launchers.items():
        folders = [
            "--run_dir",
            str(tmp_path / name),
            "--teacher_samples.path",
            str(tmp_path / f"{name}-samples"),
        ]
        command = [*launcher, "train.py", str(tmp_path / "run.yaml"), *folders]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
        assert done.returncode == 0, done.stderr
        lines[name] = [
            json.loads(line) for line in (tmp_path / name / "stats.jsonl").read_text().splitlines()
        ]
    assert [line["step"] for line in lines["two"]] == [1, 2, 3]
    for one, two in zip(lines["one"], lines["two"], strict=True):
        losses = [
            f"loss/{name}"
            for name in (
                "objective",
                "fake",
                "gan",
                "discriminator",
                "r1",
                *(["regression"] if steps == 1 else []),
            )
        ]
        for key in (
            *losses,
            "grad_norm/generator",
            "grad_norm/fake",
            "grad_norm/discriminator",
            "ratio/scale",
        ):
            assert one[key] == pytest.approx(two[key], rel=2e-3), key
    for name in launchers:
        counts = load_file(checkpoints(tmp_path / name)[-1] / "calibration.safetensors")
        for kind in ("real", "student"):
            assert counts[f"{kind}.total"][1].sum().item() == pytest.approx(6 * (1 + 0.99 + 0.99**2))


@pytest.mark.slow
def test_two_processes_stop_together_where_one_measures(tmp_path: Path) -> None:
    """Only the first process has a monitor; both leave the loop at the same step, and the run is saved and exported."""
    save_random_teacher(tmp_path / "teacher")
    config = {
        "task": "distill",
        "run_dir": str(tmp_path / "run"),
        "data": {"name": "digits"},
        "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
        "steps": 5,
        "batch_size": 4,
        "objective": {"name": "score_matching"},
        "stop_when": [{"measure": "monitor/fd_pixel", "above": 0, "start_step": 2}],
        "device": "cpu",
        "log_every": 1,
        "monitor_every": 1,
        "monitor_images": 8,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "train.py",
        str(tmp_path / "run.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert "exitcode  : 3" in done.stderr, (
        done.stderr
    )  # the launcher ends the process that is later, and leaves with a code of its own
    assert done.stdout.count("stopped at step 2 by stop_when: monitor/fd_pixel is ") == 1
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000002"]
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
