"""FLUX.1, whose latents are packed and whose guidance may be distilled, and Chroma, which is made of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import (
    Family,
    PipelineFacts,
    Tensors,
    call_plainly,
    thousandth,
)
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


def chroma_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of Chroma: text, positions of its tokens and of the image's, and a mask of all.

    The mask hides all of a prompt's filling but its first token. It is of numbers, as the pipeline has it,
    and so is added to the scores of attention.
    """
    tokens, mask = text["tokens"], text["mask"]
    height, width = (side // 2 for side in pipeline.image_shape[1:])
    return {
        "encoder_hidden_states": tokens,
        "txt_ids": tokens.new_zeros(tokens.shape[1], 3),
        "img_ids": image_positions(height, width, tokens.dtype, tokens.device),
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), height * width)], 1),
    }


def call_chroma(network: Any, inputs: Tensor, timestep: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Call Chroma with the mask in all of its blocks, also if their activations are checkpointed."""
    with _masked_checkpoints(network, arguments["attention_mask"]):
        return call_plainly(network, inputs, timestep, arguments)


@contextmanager
def _masked_checkpoints(network: Any, mask: Tensor) -> Iterator[None]:
    """Give the mask to checkpointed blocks of one stream, which diffusers 0.42 calls without it."""
    if not network.gradient_checkpointing:
        yield
        return
    own = network._gradient_checkpointing_func
    single = {id(block) for block in network.single_transformer_blocks}

    def checkpoint(block: Any, *given: Any) -> Any:
        return own(block, *given, mask) if id(block) in single and len(given) == 3 else own(block, *given)

    network._gradient_checkpointing_func = checkpoint
    try:
        yield
    finally:
        network._gradient_checkpointing_func = own


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
    "ChromaTransformer2DModel": Family(
        blocks,
        call=call_chroma,
        inputs=chroma_inputs,
        encoded=("tokens", "", "mask", "no tokens", "", "no mask"),
        packing=2,
        time_factor=thousandth,
        default_size=128,
    ),
}
