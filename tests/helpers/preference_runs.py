"""Runs of `python -m eval preference` on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import distill
from distill.data.images import from_bytes
from distill.eval.__main__ import main
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.export import export_generator
from tests.helpers import small_rewards, tiny_pipelines
from tests.helpers.runs import write_finished_run

LINES = "Prompt\tCategory\na cat\tanimals\na dog and a cat\tanimals\na house\tplaces\n"
TEXTS = ("a cat", "a dog and a cat", "a house")


def install_small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the rewards `brightness` and `brightness2` to the scores of the command."""
    small_rewards.LOADED.clear()
    monkeypatch.setattr("distill.eval.preference.score_names.of_name", small_rewards.of_name)


def save_models(root: Path) -> Path:
    """Save a pipeline, a run whose one-step student is that pipeline's network, and a file of prompts."""
    tiny_pipelines.stable_diffusion(root / "pipe", kind="DDIMScheduler", clip_sample=False)
    (root / "run" / "export").mkdir(parents=True)
    export_generator(FewStepGenerator(distill.load_teacher(root / "pipe"), 80.0), root / "run" / "export")
    teacher = {"name": "diffusers", "path": str(root / "pipe")}
    write_finished_run(root / "run", teacher, prompts={"name": "text_file", "path": "prompts.txt"})
    (root / "prompts.tsv").write_text(LINES)
    return root


def preference(folder: Path, arguments: str, scores: str = "brightness") -> dict[str, Any]:
    """Run the command with its store in a folder, and return its results."""
    settings = f"--scores {scores} --device cpu --store {folder}/store --out {folder}/result.json"
    main(["preference", *arguments.split(), *settings.split()])
    return json.loads((folder / "result.json").read_text())


def brightness(images: Tensor, prompts: tuple[str, ...] = TEXTS) -> list[float]:
    """Compute the `brightness` of images, prompts in turn, by hand."""
    letters = torch.tensor([len(prompts[row % len(prompts)]) for row in range(len(images))])
    return (from_bytes(images).mean((1, 2, 3)) + letters / 100).tolist()
