"""Sharded students of families whose forward passes are computed here are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.storage.tensors import load_tensors
from tests.helpers.diffusers_families import FAMILIES, size_of
from tests.helpers.diffusers_runs import PROMPTS
from tests.helpers.runs import train_in_processes, write_run

pytestmark = pytest.mark.slow
PROGRAM = ("-m", "tests.helpers.tiny_kandinsky_pipelines")
"""Training in a process where Kandinsky's pipeline knows small images."""
PLAIN = {"lr": 1e-2, "eps": 1.0}
"""Adam whose update is nearly proportional to the gradient."""


def exported(file: Path, folder: Path, processes: int, *overrides: str) -> dict[str, torch.Tensor]:
    """Train a run of two steps, and return the weights of its exported transformer."""
    done = train_in_processes(
        file, f"--run_dir={folder}", "--steps=2", *overrides, processes=processes, program=PROGRAM
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_tensors(folder / "export" / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("family", ["lumina2", "z-image", "cogview4", "hunyuan-dit", "kandinsky5"])
def test_a_sharded_student_is_that_of_one_process(family: str, tmp_path: Path) -> None:
    teacher = FAMILIES[family](tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    file = write_run(
        tmp_path,
        teacher={"name": "diffusers", "path": str(teacher), **size_of(family)},
        prompts={"name": "text_file", "path": str(tmp_path / "prompts.txt"), "dropout": 0.3},
        objective={"name": "score_matching"},
        batch_size=4,
        activation_checkpointing=True,
        guidance={"teacher": 2.0},
        generator={"init_noise_to_signal": 80.0, "optimizer": PLAIN},
        fake={"optimizer": PLAIN},
    )
    whole = exported(file, tmp_path / "whole", 1)
    sharded = exported(file, tmp_path / "sharded", 2, "--sharding.strategy=full")
    start = load_tensors(teacher / "transformer" / "diffusion_pytorch_model.safetensors")
    assert max((whole[name] - start[name]).abs().max() for name in start) > 1e-6
    torch.testing.assert_close(sharded, whole, rtol=0, atol=1e-6)
