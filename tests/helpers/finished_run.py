"""The folder of a run after training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIG = """# a header comment
task: distill
teacher: {name: native, path: runs/some-teacher}
objective: {name: expanded_divergence, divergence: 0.4*forward_kl+0.6*reverse_kl}
terms: [{name: gan, weight: 0.001}]
note: <script>alert("config")</script>
"""


STUDENT = {
    "fd_pixel": 0.412345678,
    "precision": 0.9123,
    "recall": 0.6789,
    "label_agreement": 0.9731,
    "memorised": 0.0012,
}


TEACHER = {
    "fd_pixel": 0.61803,
    "precision": 0.8812,
    "recall": 0.7012,
    "label_agreement": 0.9522,
    "memorised": 0.0009,
}


EVALUATION: dict[str, Any] = {
    "protocol": "fd-pixel",
    "n": 10000,
    "seed": 0,
    "student": {**STUDENT, "held_out": {"fd_pixel": 0.731, "precision": 0.8977, "recall": 0.6655}},
    "teacher": {**TEACHER, "held_out": {"fd_pixel": 0.844, "precision": 0.8633, "recall": 0.6911}},
    "reference": {"train_images": 1437},
    "sampling": {
        "teacher_ms_per_image": 1.62,
        "student_ms_per_image": 0.0512,
        "speedup": 31.6,
        "teacher_evaluations": 35,
        "student_evaluations": 1,
        "batch_size": 256,
    },
}


def stats_line(step: int, **extra: float) -> str:
    line = {
        "step": step,
        "images": step * 128,
        "seconds": step * 0.5,
        "loss/generator": 1 / step,
        "grad_norm/generator": 0.5,
        "lr/generator": 1e-4,
    }
    return json.dumps({**line, "time/fake": 30.0, "time/generator": 10.0, "ratio/mean": 0.1, **extra}) + "\n"


def write_png(path: Path, size: int = 40) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((size, size), 128, dtype=np.uint8)).save(path)


def finished_run(folder: Path) -> Path:
    """Write the folder of a run after training and evaluation, and return it."""
    run = folder / "some-run"
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG)
    (run / "meta.json").write_text(
        json.dumps(
            {
                "versions": {"torch": "2.13.0"},
                "commit": "4f1c2d9",
                "machine": "2 <cores>",
                "command": "train.py configs/x.yaml",
            }
        )
    )
    monitor = {"monitor/fd_pixel": 0.7, "monitor/n": 1000}
    (run / "stats.jsonl").write_text(
        "".join(stats_line(step, **(monitor if step % 200 == 0 else {})) for step in range(100, 1100, 100))
    )
    (run / "eval.json").write_text(json.dumps(EVALUATION))
    for name in ("real", "teacher", "student"):
        write_png(run / "eval" / f"{name}.png")
    for step in range(0, 1100, 100):
        write_png(run / "samples" / f"step-{step:08d}.png")
    return run
