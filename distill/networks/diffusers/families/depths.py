"""Layers of networks whose outputs are features, by the names of their depths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from distill.networks.diffusers.families.family import Depths


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
    return numbered(layers, width)


def numbered(layers: Iterable[nn.Module], width: int) -> Depths:
    """Return layers of this width by their numbers from 1; the bottleneck is the middle one."""
    found = list(layers)
    depths: Depths = {str(number): (layer, width) for number, layer in enumerate(found, start=1)}
    return depths | {"bottleneck": (found[(len(depths) - 1) // 2], width)}
