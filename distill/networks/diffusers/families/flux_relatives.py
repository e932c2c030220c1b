"""Ovis-Image and LongCat-Image: FLUX's kind of network, with a language model as text encoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors, thousandth
from distill.networks.diffusers.families.flux import image_positions

LONGCAT_TOKENS = 512
"""Tokens of a prompt of LongCat-Image, as its pipeline has them."""


def ovis_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of Ovis-Image; the text stands on the diagonal of the image's positions."""
    return _inputs(pipeline, text["tokens"], (0, 0, 0))


def longcat_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of LongCat-Image, whose image's positions begin behind those of the text."""
    return _inputs(pipeline, text["tokens"], (1, LONGCAT_TOKENS, LONGCAT_TOKENS))


def _inputs(pipeline: PipelineFacts, tokens: Tensor, first: tuple[int, int, int]) -> dict[str, Any]:
    """Return text and positions, in float32: of the text (0, place, place), of the image from `first` on."""
    rows, columns = (side // 2 for side in pipeline.image_shape[1:])
    return {
        "encoder_hidden_states": tokens,
        "txt_ids": text_positions(tokens.shape[1], tokens.device),
        "img_ids": shifted_positions(rows, columns, first, tokens.device),
    }


@functools.lru_cache(maxsize=16)
def text_positions(count: int, device: torch.device) -> Tensor:
    """Return (0, place, place) of each token of a text, (count, 3)."""
    with torch.inference_mode(False):
        places = torch.arange(count, dtype=torch.float32, device=device)
        return torch.stack([torch.zeros_like(places), places, places], 1)


@functools.lru_cache(maxsize=16)
def shifted_positions(rows: int, columns: int, first: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return the positions of an image's tokens, (rows * columns, 3), of which the first is `first`."""
    with torch.inference_mode(False):
        positions = image_positions(rows, columns, torch.float32, device)
        return positions + torch.tensor(first, dtype=torch.float32, device=device)


def encode_longcat(pipe: Any, arguments: dict[str, Any]) -> Sequence[Tensor]:
    """Encode prompts by the pipeline, which finds the device by itself, as they are."""
    encoded: Sequence[Tensor] = pipe.encode_prompt(prompt=arguments["prompt"])
    return encoded


def longcat_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of one prompt, which the pipeline fills up to it by itself."""
    return {"tokens": (pipe.tokenizer_max_length, pipe.transformer.config.joint_attention_dim)}


FAMILIES = {
    "OvisImageTransformer2DModel": Family(
        blocks,
        inputs=ovis_inputs,
        encoded=("tokens", "no tokens"),
        packing=2,
        time_factor=thousandth,
        default_size=128,
    ),
    "LongCatImageTransformer2DModel": Family(
        blocks,
        inputs=longcat_inputs,
        encoded=("tokens", ""),
        encode=encode_longcat,
        text_shapes=longcat_shapes,
        packing=2,
        time_factor=thousandth,
        unguided={"guidance_scale": 0, "enable_prompt_rewrite": False},
        default_size=128,
    ),
}
