"""PixArt-alpha, PixArt-Sigma, and Sana, their successor."""

from __future__ import annotations

from typing import Any

from distill.diffusion.constants import constant
from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors
from distill.networks.diffusers.families.text import MASKED, masked_inputs


def pixart_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of PixArt. Networks for 1024 pixels also take height, width and their ratio."""
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if pipeline.config.sample_size == 128:
        height, width = pipeline.pixel_shape[1:]
        numbers = {"resolution": (float(height), float(width)), "aspect_ratio": (height / width,)}
        added = {
            name: constant(value, text["tokens"]).expand(len(text["tokens"]), -1)
            for name, value in numbers.items()
        }
    return {**masked_inputs(pipeline, text), "added_cond_kwargs": added}


def sana_time_factor(config: Any) -> float:
    """Return the factor that the network's configuration has."""
    factor: float = config.timestep_scale
    return factor


FAMILIES = {
    "PixArtTransformer2DModel": Family(blocks, inputs=pixart_inputs, encoded=MASKED),
    "SanaTransformer2DModel": Family(
        blocks, inputs=masked_inputs, encoded=MASKED, time_factor=sana_time_factor
    ),
}
