"""Runs of tiny pipelines of every family of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from distill.types import Condition, Generator
from tests.helpers import latent_layouts, tiny_pipelines
from tests.helpers.diffusers_families import FAMILIES
from tests.helpers.runs import train_run, write_run

PROMPTS, LABELS = ["a cat", "two dogs", "xyz"], [3, 1, 4]
OBJECTIVES = {
    "distribution_matching": {"divergence": "jensen_shannon"},
    "score_matching": {"alpha": 1.2},
    "expanded_divergence": {"divergence": "forward_kl"},
}
SMALL = {"steps": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 3, "device": "cpu"}


def make_inputs(root: Path) -> Path:
    """Make tiny pipelines, prompts, and a folder of captioned images; return `root`."""
    for name in ("ddpm", "sd15", "sdxl"):
        FAMILIES[name](root / name)
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    (root / "images").mkdir()
    for row, prompt in enumerate(PROMPTS):
        Image.new("RGB", (20 + row, 24), (80 * row, 128, 0)).save(root / "images" / f"{row}.png")
        (root / "images" / f"{row}.txt").write_text(prompt)
    return root


def run(root: Path, name: str, config: dict[str, Any]) -> Path:
    """Run a configuration to its end, and return the run's folder."""
    return train_run(write_run(root, **{**SMALL, "run_dir": str(root / "runs" / name), **config}))


def image_of_diffusers(folder: Path, z: Tensor, steps: int = 1) -> Tensor:
    """Call an exported pipeline as users call it, but with given noise."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    condition = PROMPTS[: len(z)] if hasattr(pipe, "encode_prompt") else LABELS[: len(z)]
    return tiny_pipelines.renoised(pipe, z, condition, steps, **latent_layouts.without_guidance(pipe))


@torch.no_grad()
def image_of_ours(generator: Generator, z: Tensor) -> Tensor:
    label = torch.tensor(LABELS[: len(z)]) if generator.label_count else None
    cond = generator.encode_prompts(PROMPTS[: len(z)]) if generator.takes_text else Condition(label)
    return (generator.decode(generator(z, cond)) / 2 + 0.5).clamp(0, 1)
