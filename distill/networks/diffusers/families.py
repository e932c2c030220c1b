"""Families of denoisers in diffusers: how the networks of a class are called, where their features are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from distill.diffusion.constants import constant

Tensors = dict[str, Tensor]
Depths = dict[str, tuple[nn.Module, int]]
"""Layers by the names of their depths, and the channels of their outputs."""


@runtime_checkable
class PipelineFacts(Protocol):
    """Facts about an opened pipeline that decide the arguments of its network."""

    config: Any
    """The configuration of its network."""
    embedded_guidance: float | None
    """Guidance scale that a guidance-distilled network takes as input."""
    image_shape: tuple[int, ...]
    """Shape of x_t."""
    pixel_shape: tuple[int, ...]
    """Shape of the images."""


def no_time_factor(config: Any) -> float:
    """Return 1: the network takes the scheduler's steps."""
    return 1.0


def flux_time_factor(config: Any) -> float:
    """Return 1/1000: the network takes times in [0, 1], and multiplies them by 1000 itself."""
    return 1e-3


def sana_time_factor(config: Any) -> float:
    return config.timestep_scale


def unchanged(network: Any, guidance: float | None) -> nn.Module:
    """Return the network unchanged."""
    return network


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of denoisers.

    A pipeline holds such a network as `part`, and calls it with the noisy image, `timestep` and the
    condition.
    """

    depths: Callable[[Any, int], Depths]
    """Returns the layers of a network whose outputs are features, for x_t of this height."""
    part: str = "transformer"
    inputs: Callable[[PipelineFacts, Tensors], dict[str, Any]] | None = None
    """Turns an encoded prompt into arguments of the network; None for networks that take no prompt."""
    encoded: tuple[str, ...] = ()
    """Names of what the pipeline's `encode_prompt` returns; "no ..." names the unconditional tensors.

    Without these, the empty prompt is encoded as the unconditional one.
    """
    labels: str = ""
    """Setting of the network with the number of its classes."""
    has_null_label: bool = False
    """The network has one more class, which means no label."""
    packing: int = 1
    """Side of the squares of latents that make one token. Above 1 the network takes (b, tokens, channels)."""
    time_factor: Callable[[Any], float] = no_time_factor
    """Returns the factor from the scheduler's steps to the network's timestep, given its configuration."""
    fixed_size: bool = False
    """The pipeline makes images of one size only."""
    default_size: int | None = None
    """Height and width of the latents if the network's configuration names none."""
    exported: Callable[[Any, float | None], nn.Module] = unchanged
    """Returns the network to export, given the guidance scale that it takes as input."""

    @property
    def is_unet(self) -> bool:
        return self.part == "unet"


def encoder_levels(unet: Any, height: int) -> Depths:
    """Return the levels of a U-Net's encoder by height, and its middle block, if any, as the bottleneck.

    The features of a level are taken before the resolution is halved.
    """
    channels = unet.config.block_out_channels
    depths: Depths = {}
    for level, (block, count) in enumerate(zip(unet.down_blocks, channels, strict=True)):
        layers = getattr(block, "attentions", None) or block.resnets
        depths[str(height >> level)] = (layers[-1], count)
    if unet.mid_block is not None:
        depths["bottleneck"] = (unet.mid_block, channels[-1])
    return depths


def blocks(transformer: Any, height: int) -> Depths:
    """Return the blocks of a transformer by their numbers from 1; the bottleneck is the middle one."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    layers = [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
    depths: Depths = {str(number): (layer, width) for number, layer in enumerate(layers, start=1)}
    return depths | {"bottleneck": (layers[(len(layers) - 1) // 2], width)}


def unet_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a U-Net. SDXL's size and crop are those of whole images."""
    added = None
    if "pooled" in text:
        height, width = pipeline.pixel_shape[1:]
        ids = constant((height, width, 0, 0, height, width), text["pooled"])
        added = {"text_embeds": text["pooled"], "time_ids": ids.expand(len(text["pooled"]), -1)}
    return {"encoder_hidden_states": text["tokens"], "added_cond_kwargs": added}


def masked_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a transformer that takes tokens and their mask."""
    return {"encoder_hidden_states": text["tokens"], "encoder_attention_mask": text["mask"]}


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


def pooled_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a transformer that takes tokens and a pooled embedding."""
    return {"encoder_hidden_states": text["tokens"], "pooled_projections": text["pooled"]}


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
        time_factor=flux_time_factor,
        default_size=128,
        exported=flux_exported,
    ),
    "SanaTransformer2DModel": Family(
        blocks, inputs=masked_inputs, encoded=MASKED, time_factor=sana_time_factor
    ),
}
"""The families by the names of their classes in diffusers."""
