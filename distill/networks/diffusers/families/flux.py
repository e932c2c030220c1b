"""FLUX.1, whose latents are packed and whose guidance may be distilled."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors, thousandth
from distill.networks.diffusers.families.text import pooled_inputs


def flux_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of FLUX: text, positions of its tokens and of the image's, and guidance scale."""
    tokens = text["tokens"]
    height, width = pipeline.image_shape[1:]
    guidance = None
    if pipeline.embedded_guidance is not None:
        guidance = tokens.new_full((len(tokens),), pipeline.embedded_guidance)
    return {
        **pooled_inputs(pipeline, text),
        "txt_ids": tokens.new_zeros(tokens.shape[1], 3),
        "img_ids": image_positions(height // 2, width // 2, tokens.dtype, tokens.device),
        "guidance": guidance,
    }


@functools.lru_cache(maxsize=16)
def image_positions(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (0, row, column) of each token of an image, row by row, (height * width, 3)."""
    with torch.inference_mode(False):
        rows = torch.arange(height, dtype=dtype, device=device).repeat_interleave(width)
        columns = torch.arange(width, dtype=dtype, device=device).repeat(height)
        return torch.stack([torch.zeros_like(rows), rows, columns], 1)


def flux_exported(network: Any, guidance: float | None) -> nn.Module:
    """Add the embedding of the guidance scale to the bias of the time embedding, and drop its layers.

    A pipeline would otherwise pass the `guidance_scale` of each call to the network.
    """
    if guidance is None:
        return network
    embed = network.time_text_embed
    weights = network.state_dict()
    bias = "time_text_embed.timestep_embedder.linear_2.bias"
    with torch.no_grad():
        scale = weights[bias].new_tensor([1000 * guidance])
        embedded = embed.guidance_embedder(embed.time_proj(scale))[0]
    weights = {name: value for name, value in weights.items() if "guidance_embedder" not in name}
    weights[bias] = weights[bias] + embedded
    with torch.device("meta"):
        exported = type(network).from_config({**network.config, "guidance_embeds": False})
    exported.load_state_dict(weights, assign=True)
    return exported.eval()


FAMILIES = {
    "FluxTransformer2DModel": Family(
        blocks,
        inputs=flux_inputs,
        encoded=("tokens", "pooled"),
        packing=2,
        time_factor=thousandth,
        takes_guidance=True,
        default_size=128,
        exported=flux_exported,
    ),
}
