"""The classes of denoisers in diffusers that are known here, one description each: how it is called, and where its features are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Depths = dict[str, tuple[nn.Module, int]]
"""Layers by the names of their depths, and the channels that leave each."""


@runtime_checkable
class PipelineFacts(Protocol):
    """Facts about an opened pipeline that decide the arguments of its network."""

    pipe: Any
    """The pipeline of diffusers itself."""
    config: Any
    """The configuration of its network."""
    embedded_guidance: float | None
    """Scale of guidance that a guidance-distilled network is told."""
    image_shape: tuple[int, ...]
    """Shape of what the network works on."""
    pixel_shape: tuple[int, ...]
    """Shape of the images."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of denoisers. Their pipelines have them as `part`, and call them with the noisy image, `timestep` and the condition."""

    depths: Callable[[Any, int], Depths]
    """The layers of a network, for images of a height."""
    part: str = "transformer"
    inputs: Callable[[PipelineFacts, Tensors], dict[str, Any]] | None = None
    """An encoded prompt as the network's arguments; None for networks that take none."""
    encoded: tuple[str, ...] = ()
    """What the pipeline's `encode_prompt` returns; "no ..." is what stands for no prompt, which is the empty one where there is no such part."""
    labels: str = ""
    """Setting of the network that counts its classes."""
    has_null_label: bool = False
    """It has one class more, which means none."""
    packing: int = 1
    """Side of the squares of the latents that are one token each to the network, which then takes (b, tokens, channels)."""
    time_factor: Callable[[Any], float] = lambda config: 1.0
    """From the scheduler's steps to what the network is told."""
    fixed_size: bool = False
    """Its pipeline makes images of one size only."""
    default_size: int | None = None
    """Height and width of the latents where the network's configuration names none."""
    exported: Callable[[Any, float | None], nn.Module] = lambda network, guidance: network
    """The network that leaves in a pipeline, given the guidance that it is told."""


def encoder_levels(unet: Any, height: int) -> Depths:
    """Levels of a U-Net's encoder, by their heights, each as it is before the resolution is halved, and, where it has a middle block, what that
    makes of them, its bottleneck."""
    channels = unet.config.block_out_channels
    last = [(getattr(block, "attentions", None) or block.resnets)[-1] for block in unet.down_blocks]
    levels = {
        str(height >> level): (layer, count)
        for level, (layer, count) in enumerate(zip(last, channels, strict=True))
    }
    return levels if unet.mid_block is None else levels | {"bottleneck": (unet.mid_block, channels[-1])}


def blocks(transformer: Any, height: int) -> Depths:
    """Blocks of a transformer, by their numbers from 1; the bottleneck is the middle one."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    every = [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
    numbered = {str(number): (block, width) for number, block in enumerate(every, start=1)}
    return numbered | {"bottleneck": (every[(len(every) - 1) // 2], width)}


def unet_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """SDXL's sizes and crop are those of whole images of the pipeline's own size."""
    added = None
    if "pooled" in text:
        height, width = pipeline.pixel_shape[1:]
        ids = text["pooled"].new_tensor([height, width, 0, 0, height, width])
        added = {"text_embeds": text["pooled"], "time_ids": ids.expand(len(text["pooled"]), -1)}
    return {"encoder_hidden_states": text["tokens"], "added_cond_kwargs": added}


def masked_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    return {"encoder_hidden_states": text["tokens"], "encoder_attention_mask": text["mask"]}


def pixart_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """The networks for 1024 pixels are told height, width and their ratio."""
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if pipeline.config.sample_size == 128:
        height, width = pipeline.pixel_shape[1:]
        numbers = {"resolution": [float(height), float(width)], "aspect_ratio": [height / width]}
        added = {
            name: text["tokens"].new_tensor(value).expand(len(text["tokens"]), -1)
            for name, value in numbers.items()
        }
    return {**masked_inputs(pipeline, text), "added_cond_kwargs": added}


def pooled_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    return {"encoder_hidden_states": text["tokens"], "pooled_projections": text["pooled"]}


def flux_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Positions of text and image, and the guidance that a guidance-distilled network is told."""
    tokens, (height, width) = text["tokens"], pipeline.image_shape[1:]
    guidance = (
        None
        if pipeline.embedded_guidance is None
        else tokens.new_full((len(tokens),), pipeline.embedded_guidance)
    )
    positions = {
        "txt_ids": tokens.new_zeros(tokens.shape[1], 3),
        "img_ids": pipeline.pipe._prepare_latent_image_ids(
            1, height // 2, width // 2, tokens.device, tokens.dtype
        ),
    }
    return {**pooled_inputs(pipeline, text), **positions, "guidance": guidance}


def flux_exported(network: Any, guidance: float | None) -> nn.Module:
    """With the embedding of its guidance in the bias of its time's: a pipeline would tell it the `guidance_scale` of its call."""
    if guidance is None:
        return network
    embed, weights = network.time_text_embed, network.state_dict()
    bias = "time_text_embed.timestep_embedder.linear_2.bias"
    with torch.no_grad():
        told = embed.guidance_embedder(embed.time_proj(weights[bias].new_tensor([1000 * guidance])))
    weights = {name: value for name, value in weights.items() if "guidance_embedder" not in name}
    with torch.device("meta"):
        folded = type(network).from_config({**network.config, "guidance_embeds": False})
    folded.load_state_dict({**weights, bias: weights[bias] + told[0]}, assign=True)
    return folded.eval()


PAIRS = ("tokens", "no tokens", "pooled", "no pooled")
MASKED = ("tokens", "mask", "no tokens", "no mask")
FAMILIES = {
    "UNet2DModel": Family(encoder_levels, "unet", labels="num_class_embeds"),
    "UNet2DConditionModel": Family(encoder_levels, "unet", unet_inputs, PAIRS),
    "DiTTransformer2DModel": Family(
        blocks, labels="num_embeds_ada_norm", has_null_label=True, fixed_size=True
    ),
    "PixArtTransformer2DModel": Family(blocks, inputs=pixart_inputs, encoded=MASKED),
    "SD3Transformer2DModel": Family(blocks, inputs=pooled_inputs, encoded=PAIRS),
    "FluxTransformer2DModel": Family(
        blocks,
        inputs=flux_inputs,
        encoded=("tokens", "pooled"),
        packing=2,
        time_factor=lambda config: 1e-3,
        default_size=128,
        exported=flux_exported,
    ),
    "SanaTransformer2DModel": Family(
        blocks, inputs=masked_inputs, encoded=MASKED, time_factor=lambda config: config.timestep_scale
    ),
}
"""By their names in diffusers."""
