"""Tiny pipelines of every family of diffusers by name, and what tests have to know of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.helpers import (
    tiny_flow_pipelines,
    tiny_kandinsky_pipelines,
    tiny_lumina_pipelines,
    tiny_pipelines,
    tiny_prompt_pipelines,
)

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
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
    "sana15": lambda folder: tiny_pipelines.sana(folder, qk_norm="rms_norm_across_heads"),
    "lumina2": tiny_lumina_pipelines.lumina2,
    "z-image": tiny_lumina_pipelines.z_image,
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
VARIANTS: dict[str, Callable[[Path], Path]] = {
    "zero-snr": lambda folder: tiny_pipelines.stable_diffusion(folder, "DDIMScheduler", **ZERO_SNR),
    "flux-schnell": lambda folder: tiny_pipelines.flux(folder, guidance=False),
}
"""Pipelines of these families of which students leave, too."""
PIPELINES = {**UNETS, **TRANSFORMERS, **VARIANTS}
FAMILIES = {name: save for name, save in PIPELINES.items() if name != "labels"}
"""Pipelines of which students leave: without a class for no label there is no guidance."""
CHECKPOINTED = (
    "lumina2",
    "z-image",
    "aura-flow",
    "cogview4",
    "flux2",
    "qwen-image",
    "chroma",
    "hunyuan-image",
    "ovis-image",
    "longcat-image",
    "kandinsky5",
)
"""One family of each class of transformers since Sana whose blocks can be checkpointed."""
FURTHER = ("hunyuan-dit", *CHECKPOINTED)
"""One family of each class of transformers since Sana."""
FLOW = ("sd3", "flux", "flux-schnell", "flux2-klein", "sana", "sana15", *CHECKPOINTED)
"""Families of flow matching, whose time is from 0 to 1."""
SIZELESS = (
    "flux",
    "flux-schnell",
    "z-image",
    "aura-flow",
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
ONE_STEP = ("cogview4",)
"""Families whose pipelines have times of their own, so that students take one step."""
MERGED = (
    "ddpm",
    "dit",
    "hunyuan-dit",
    "pixart-alpha",
    "pixart-sigma",
    "hunyuan-image",
    "ovis-image",
    "longcat-image",
)
"""Families whose pipelines load no adapters, so that a student's are merged into the weights."""
GUIDANCE = {"flux": 7.0, "flux2": 7.0}
"""Guidance scales that networks take as input, not the defaults of their pipelines."""


def size_of(family: str) -> dict[str, int]:
    """Return the setting of a small teacher, if its pipeline names no size."""
    return {"resolution": 16} if family in SIZELESS else {}


def folder_of(root: Path, family: str) -> Path:
    """Return the tiny pipeline of a family, which is made when it is asked for first."""
    return root / family if (root / family).is_dir() else PIPELINES[family](root / family)
