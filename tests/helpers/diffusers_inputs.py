"""Tiny teachers of diffusers, and noise and conditions for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.teachers.diffusers import Settings
from distill.types import Condition, Denoiser
from tests.helpers import (
    tiny_flow_pipelines,
    tiny_kandinsky_pipelines,
    tiny_lumina_pipelines,
    tiny_pipelines,
    tiny_prompt_pipelines,
)

PROMPTS = ["a cat", "xyz"]
UNETS: dict[str, Callable[[Path], Path]] = {
    "ddpm": tiny_pipelines.ddpm,
    "labels": lambda folder: tiny_pipelines.ddpm(folder, classes=5, prediction_type="sample"),
    "sd15": tiny_pipelines.stable_diffusion,
    "sd21": lambda folder: tiny_pipelines.stable_diffusion(folder, prediction_type="v_prediction"),
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "kolors": tiny_prompt_pipelines.kolors,
}
TRANSFORMERS: dict[str, Callable[[Path], Path]] = {
    "dit": tiny_pipelines.dit,
    "pixart-alpha": tiny_pipelines.pixart_alpha,
    "pixart-sigma": tiny_pipelines.pixart_sigma,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
    "sana": tiny_pipelines.sana,
    "lumina2": tiny_lumina_pipelines.lumina2,
    "z-image": tiny_lumina_pipelines.z_image,
    "sana15": lambda folder: tiny_pipelines.sana(folder, qk_norm="rms_norm_across_heads"),
    "aura-flow": tiny_prompt_pipelines.aura_flow,
    "hunyuan-dit": tiny_prompt_pipelines.hunyuan_dit,
    "cogview4": tiny_prompt_pipelines.cogview4,
    "flux2": tiny_flow_pipelines.flux2,
    "flux2-klein": lambda folder: tiny_flow_pipelines.flux2(folder, klein=True),
    "qwen-image": tiny_flow_pipelines.qwen_image,
    "chroma": tiny_flow_pipelines.chroma,
    "hunyuan-image": tiny_flow_pipelines.hunyuan_image,
    "ovis-image": tiny_flow_pipelines.ovis_image,
    "longcat-image": tiny_flow_pipelines.longcat_image,
    "kandinsky5": tiny_kandinsky_pipelines.kandinsky5,
}
SIZELESS = (
    "z-image",
    "aura-flow",
    "flux",
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


class PipelineFolders:
    """Folders of tiny pipelines by family, each made when it is asked for first."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, family: str) -> Path:
        folder = self.root / family
        return folder if folder.is_dir() else {**UNETS, **TRANSFORMERS}[family](folder)


def transformer(folders: PipelineFolders, family: str) -> DiffusersNetwork:
    """Open a teacher of 16x16 images, if its pipeline has a choice."""
    return Settings(path=str(folders[family]), resolution=16 if family in SIZELESS else None).load()


def noise(teacher: Denoiser, count: int = 2, seed: int = 0) -> Tensor:
    """Draw unit noise, (count, *teacher.image_shape)."""
    return torch.randn(count, *teacher.image_shape, generator=torch.Generator().manual_seed(seed))


def condition(teacher: Denoiser) -> Condition:
    """Make a condition for two images, as the teacher takes it."""
    if teacher.takes_text:
        return teacher.encode_prompts(PROMPTS)
    return Condition(torch.tensor([3, 1])) if teacher.label_count else Condition()
