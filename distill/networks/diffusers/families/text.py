"""Arguments and names of encoded prompts that several families share."""

from __future__ import annotations

from typing import Any

from distill.networks.diffusers.families.family import PipelineFacts, Tensors

PAIRS = ("tokens", "no tokens", "pooled", "no pooled")
MASKED = ("tokens", "mask", "no tokens", "no mask")


def masked_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a transformer that takes tokens and their mask."""
    return {"encoder_hidden_states": text["tokens"], "encoder_attention_mask": text["mask"]}


def pooled_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a transformer that takes tokens and a pooled embedding."""
    return {"encoder_hidden_states": text["tokens"], "pooled_projections": text["pooled"]}


def prompt_shapes(tokens: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of so many tokens of this width, and of their mask."""
    return {"tokens": (tokens, width), "mask": (tokens,)}
