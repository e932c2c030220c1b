"""Layouts of latents in the pipelines of diffusers, by their own functions; ours is (b, channels, h, w)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KANDINSKY = "Kandinsky5T2IPipeline"
"""Pipeline whose latents are (b, 1, h, w, channels), and which fills prompts up without masks."""


def prompt_by_prompt(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Have a pipeline that fills prompts up without masks called with one noise and prompt after another."""

    @functools.wraps(call)
    def called(pipe: Any, z: Tensor, condition: Any, *arguments: Any, **settings: Any) -> Tensor:
        count = 1 if type(pipe).__name__ == KANDINSKY else len(z)
        rows = [slice(row, row + count) for row in range(0, len(z), count)]
        return torch.cat([call(pipe, z[row], condition[row], *arguments, **settings) for row in rows])

    return called


def given(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents as the pipeline's call takes them."""
    if hasattr(pipe, "_patchify_latents"):  # FLUX.2, which packs them itself
        return pipe._patchify_latents(latents)
    return stepped(pipe, latents)


def stepped(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents as the pipeline's scheduler steps them."""
    if hasattr(pipe, "_patchify_latents"):
        return pipe._pack_latents(pipe._patchify_latents(latents))
    if type(pipe).__name__ == KANDINSKY:
        return latents.movedim(1, -1)[:, None]
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
    if type(pipe).__name__ == KANDINSKY:
        return latents[:, 0].movedim(-1, 1)
    return latents


def without_guidance(pipe: Any) -> dict[str, Any]:
    """Return arguments with which the pipeline samples without guidance."""
    known = inspect.signature(type(pipe).__call__).parameters
    settings: dict[str, Any] = {"enable_prompt_rewrite": False} if "enable_prompt_rewrite" in known else {}
    takes_guidance = hasattr(pipe, "transformer") and pipe.transformer.config.get("guidance_embeds")
    if "guidance_scale" in known and not takes_guidance:
        settings["guidance_scale"] = 0
    return settings
