"""Implicit distribution alignment: the fake score is pulled to the generator after the generator's update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from tests.helpers import tiny_pipelines
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    logged_steps,
    read_run,
    refusal,
    train_run,
    write_run,
)

OPTIMIZER = {"lr": 1e-2}
NETWORKS = {"generator": {"optimizer": OPTIMIZER}, "fake": {"optimizer": OPTIMIZER}}


def weights_after(file: Path, *overrides: str, steps: int = 1) -> dict[str, list[Tensor]]:
    """Return the weights of each network after the first steps of a run, in at least float32."""
    config = read_run(file, *overrides)
    task = Distillation(config, build_processes(config), Clock())
    task.start(0)
    for step in range(steps):
        task.update(step, detailed=False)
        task.finite.end_step(step)
    stored = zip(task.updaters["fake"].parameters, task.updaters["fake"].weights, strict=True)
    for parameter, weight in stored:
        assert torch.equal(parameter, weight.to(parameter.dtype))
    return {name: [weight.clone() for weight in each.weights] for name, each in task.updaters.items()}


def lora(folder: Path) -> dict[str, Any]:
    """Return settings of a run of adapters of rank 2 for student and fake score."""
    tiny_pipelines.stable_diffusion(folder / "sd")
    (folder / "prompts.txt").write_text("a cat\ntwo dogs\n")
    network = {"name": "lora", "rank": 2}
    return {
        "teacher": {"name": "diffusers", "path": str(folder / "sd")},
        "prompts": {"name": "text_file", "path": str(folder / "prompts.txt")},
        "generator": {"network": network, "optimizer": OPTIMIZER},
        "fake": {"network": network, "optimizer": OPTIMIZER},
    }


@pytest.mark.parametrize("kind", ["copy", "bf16-true", "lora"])
def test_the_weights_are_interpolated_after_the_generator_s_update(tmp_path: Path, kind: str) -> None:
    """After the first step the fake score is 0.75 of what it was without alignment, and 0.25 the student."""
    settings = lora(tmp_path) if kind == "lora" else NETWORKS
    if kind == "bf16-true":
        tiny_pipelines.stable_diffusion(tmp_path / "sd")
        settings = {**lora(tmp_path), **NETWORKS, "precision": "bf16-true"}
    file = write_run(tmp_path, **settings)
    plain = weights_after(file)
    aligned = weights_after(file, "--fake.alignment=0.75")
    pairs = zip(plain["generator"], plain["fake"], aligned["fake"], strict=True)
    for student, fake, found in pairs:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, 0.75 * fake + 0.25 * student, rtol=1e-6, atol=1e-7)
        assert (student - fake).abs().max() > 0
    for found, expected in zip(aligned["generator"], plain["generator"], strict=True):
        assert torch.equal(found, expected)


def test_nothing_is_aligned_while_the_fake_score_alone_is_trained(tmp_path: Path) -> None:
    file = write_run(tmp_path, **{**NETWORKS, "fake": {"optimizer": OPTIMIZER, "warmup_steps": 2}})
    found = weights_after(file, "--fake.alignment=0.5", steps=2)
    for weight, expected in zip(found["fake"], weights_after(file, steps=2)["fake"], strict=True):
        assert torch.equal(weight, expected)


def test_an_aligned_run_continues_bit_for_bit(tmp_path: Path) -> None:
    settings = {"fake": {"alignment": 0.9}, "steps": 4, "checkpoint_every": 2}
    file = write_run(tmp_path, **settings)
    whole = train_run(file, f"--run_dir={tmp_path / 'whole'}")
    middle = whole / "checkpoints" / "step-00000002"
    cut = train_run(file, f"--run_dir={tmp_path / 'cut'}", f"--resume={middle}")
    assert logged_steps(cut) == [3, 4]
    assert_same_tensors(checkpoint_tensors(cut), checkpoint_tensors(whole))


@pytest.mark.parametrize(
    ("student", "fake", "message"),
    [
        (
            {"name": "mlp"},
            {"name": "copy"},
            "fake.network.name is copy; expected mlp as in generator.network",
        ),
        (
            {"name": "mlp", "width": 32},
            {"name": "mlp", "width": 16},
            "fake.network.width is 16; expected 32 as in generator.network, or alignment: null",
        ),
        (
            {"name": "lora", "rank": 4},
            {"name": "lora", "rank": 8},
            "fake.network.rank is 8; expected 4 as in generator.network",
        ),
        ({"name": "affine"}, {"name": "exact"}, "fake.network.name is exact; expected affine"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    tmp_path: Path, student: dict[str, Any], fake: dict[str, Any], message: str
) -> None:
    file = write_run(tmp_path, generator={"network": student}, fake={"network": fake, "alignment": 0.97})
    assert f"fake.alignment: {message}" in refusal(file)


def test_adapters_of_equal_settings_fit(tmp_path: Path) -> None:
    settings = lora(tmp_path)
    settings["fake"] |= {"alignment": 0.97}
    assert read_config(write_run(tmp_path, **settings), ()).fake.alignment == 0.97
