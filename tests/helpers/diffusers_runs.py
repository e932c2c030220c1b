"""Runs of tiny pipelines of every family of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from distill.types import Condition, Generator
from tests.helpers import (
    latent_layouts,
    tiny_flow_pipelines,
    tiny_kandinsky_pipelines,
    tiny_lumina_pipelines,
    tiny_pipelines,
    tiny_prompt_pipelines,
)
from tests.helpers.runs import train_run, write_run

PROMPTS, LABELS = ["a cat", "two dogs", "xyz"], [3, 1, 4]
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": tiny_pipelines.ddpm,
    "sd15": tiny_pipelines.stable_diffusion,
    "sd21": lambda folder: tiny_pipelines.stable_diffusion(folder, prediction_type="v_prediction"),
    "zero-snr": lambda folder: tiny_pipelines.stable_diffusion(folder, "DDIMScheduler", **ZERO_SNR),
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "dit": tiny_pipelines.dit,
    "pixart-alpha": tiny_pipelines.pixart_alpha,
    "pixart-sigma": tiny_pipelines.pixart_sigma,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
    "flux-schnell": lambda folder: tiny_pipelines.flux(folder, guidance=False),
    "sana": tiny_pipelines.sana,
    "lumina2": tiny_lumina_pipelines.lumina2,
    "z-image": tiny_lumina_pipelines.z_image,
    "sana15": lambda folder: tiny_pipelines.sana(folder, qk_norm="rms_norm_across_heads"),
    "aura-flow": tiny_prompt_pipelines.aura_flow,
    "hunyuan-dit": tiny_prompt_pipelines.hunyuan_dit,
    "cogview4": tiny_prompt_pipelines.cogview4,
    "kolors": tiny_prompt_pipelines.kolors,
    "flux2": tiny_flow_pipelines.flux2,
    "flux2-klein": lambda folder: tiny_flow_pipelines.flux2(folder, klein=True),
    "qwen-image": tiny_flow_pipelines.qwen_image,
    "chroma": tiny_flow_pipelines.chroma,
    "hunyuan-image": tiny_flow_pipelines.hunyuan_image,
    "ovis-image": tiny_flow_pipelines.ovis_image,
    "longcat-image": tiny_flow_pipelines.longcat_image,
    "kandinsky5": tiny_kandinsky_pipelines.kandinsky5,
}
FLOW = (
    "sd3",
    "flux",
    "flux-schnell",
    "sana",
    "lumina2",
    "z-image",
    "sana15",
    "aura-flow",
    "cogview4",
    "flux2",
    "flux2-klein",
    "qwen-image",
    "chroma",
    "hunyuan-image",
    "ovis-image",
    "longcat-image",
    "kandinsky5",
)
ONE_STEP = ("cogview4",)
"""Families whose pipelines have times of their own, so that students take one step."""
GUIDANCE = {"flux": 7.0, "flux2": 7.0}
"""Guidance scales that networks take as input, not the defaults of their pipelines."""
SIZELESS = (
    "z-image",
    "aura-flow",
    "flux",
    "flux-schnell",
    "flux2",
    "flux2-klein",
    "qwen-image",
    "chroma",
    "hunyuan-image",
    "ovis-image",
    "longcat-image",
    "kandinsky5",
)
"""Families whose pipelines name no size of their own, or a large one."""
OBJECTIVES = {
    "distribution_matching": {"divergence": "jensen_shannon"},
    "score_matching": {"alpha": 1.2},
    "expanded_divergence": {"divergence": "forward_kl"},
}
SMALL = {"steps": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 3, "device": "cpu"}


def size_of(family: str) -> dict[str, int]:
    """Return the setting of a small teacher, if its pipeline names no size."""
    return {"resolution": 16} if family in SIZELESS else {}


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


def folder_of(root: Path, family: str) -> Path:
    """Return the tiny pipeline of a family, which is made when it is asked for first."""
    return root / family if (root / family).is_dir() else FAMILIES[family](root / family)


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
