"""Layouts of latents in the pipelines of diffusers, by their own functions; ours is (b, channels, h, w)."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor


def given(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents as the pipeline's call takes them."""
    if hasattr(pipe, "_patchify_latents"):  # FLUX.2, which packs them itself
        return pipe._patchify_latents(latents)
    return stepped(pipe, latents)


def stepped(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents as the pipeline's scheduler steps them."""
    if hasattr(pipe, "_patchify_latents"):
        return pipe._pack_latents(pipe._patchify_latents(latents))
    return pipe._pack_latents(latents, *latents.shape) if hasattr(pipe, "_pack_latents") else latents


def ours(pipe: Any, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return latents of a step of the pipeline's scheduler in our layout, (b, *shape)."""
    _, height, width = shape
    if hasattr(pipe, "_unpatchify_latents"):
        ids = pipe._prepare_latent_ids(latents.new_zeros(len(latents), 1, height // 2, width // 2))
        return pipe._unpatchify_latents(pipe._unpack_latents_with_ids(latents, ids))
    if hasattr(pipe, "_unpack_latents"):
        factor = pipe.vae_scale_factor
        unpacked: Tensor = pipe._unpack_latents(latents, height * factor, width * factor, factor)
        return unpacked.squeeze(2) if unpacked.ndim == 5 else unpacked  # Qwen-Image has one frame
    return latents


def without_guidance(pipe: Any) -> dict[str, Any]:
    """Return arguments with which the pipeline samples without guidance."""
    known = inspect.signature(type(pipe).__call__).parameters
    settings: dict[str, Any] = {"enable_prompt_rewrite": False} if "enable_prompt_rewrite" in known else {}
    takes_guidance = hasattr(pipe, "transformer") and pipe.transformer.config.get("guidance_embeds")
    if "guidance_scale" in known and not takes_guidance:
        settings["guidance_scale"] = 0
    return settings
