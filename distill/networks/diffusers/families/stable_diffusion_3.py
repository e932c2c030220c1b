"""Stable Diffusion 3 and 3.5, and AuraFlow: joint attention of the tokens of image and prompt."""

from __future__ import annotations

from typing import Any

from distill.networks.diffusers.families.depths import blocks, numbered
from distill.networks.diffusers.families.family import Depths, Family, PipelineFacts, Tensors, thousandth
from distill.networks.diffusers.families.text import PAIRS, pooled_inputs


def aura_flow_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the argument of AuraFlow: tokens, of which those that fill a prompt up are zeros."""
    return {"encoder_hidden_states": text["tokens"]}


def aura_flow_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"tokens": (settings["max_sequence_length"], pipe.transformer.config.joint_attention_dim)}


def aura_flow_depths(transformer: Any, height: int) -> Depths:
    """Return the joint blocks, and then the single ones, by their numbers from 1."""
    config = transformer.config
    layers = [*transformer.joint_transformer_blocks, *transformer.single_transformer_blocks]
    return numbered(layers, config.num_attention_heads * config.attention_head_dim)


FAMILIES = {
    "SD3Transformer2DModel": Family(blocks, inputs=pooled_inputs, encoded=PAIRS),
    "AuraFlowTransformer2DModel": Family(
        aura_flow_depths,
        inputs=aura_flow_inputs,
        encoded=("tokens", "", "no tokens", ""),
        text_shapes=aura_flow_shapes,
        time_factor=thousandth,
        default_size=128,  # of its pipeline's call; the configuration's 64 is not used
    ),
}
