"""DiT, of classes, and HunyuanDiT, of prompts that two encoders encode."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.diffusion.constants import constant
from distill.networks.diffusers.families.depths import blocks, numbered
from distill.networks.diffusers.families.family import Depths, Family, PipelineFacts, Tensors, call_plainly

HUNYUAN_TOKENS = (77, 256)
"""Tokens of BERT and of T5, as HunyuanDiT's pipeline calls them."""
HUNYUAN_ENCODED = tuple(
    f"{kind}{name}{end}" for end in ("", "_2") for name in ("tokens", "mask") for kind in ("", "no ")
)
HUNYUAN_ORIGINAL, HUNYUAN_BASE = 1024, 64
"""Height of original images in pixels, and of latents whose positions are not scaled, in its pipeline."""


def hunyuan_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of HunyuanDiT: text, sizes and crop of whole images, style, and positions."""
    tokens, count = text["tokens"], len(text["tokens"])
    height, width = pipeline.pixel_shape[1:]
    config = pipeline.config
    sizes = constant((HUNYUAN_ORIGINAL, HUNYUAN_ORIGINAL, height, width, 0, 0), tokens)
    rows, columns = (side // config.patch_size for side in pipeline.image_shape[1:])
    return {
        "encoder_hidden_states": tokens,
        "text_embedding_mask": text["mask"],
        "encoder_hidden_states_t5": text["tokens_2"],
        "text_embedding_mask_t5": text["mask_2"],
        "image_meta_size": sizes.repeat(count, 1),
        "style": text["mask"].new_zeros(count),
        "image_rotary_emb": hunyuan_rotations(
            config.attention_head_dim, rows, columns, HUNYUAN_BASE // config.patch_size, tokens.device
        ),
    }


@functools.lru_cache(maxsize=16)
def hunyuan_rotations(
    width: int, rows: int, columns: int, base: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the positions of an image's tokens, (rows * columns, width) each."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    region = get_resize_crop_region_for_grid((rows, columns), base)
    with torch.inference_mode(False):
        cosines, sines = get_2d_rotary_pos_embed(
            width, region, (rows, columns), device=device, output_type="pt"
        )
    return cosines, sines


def run_hunyuan(network: Any, x_t: Tensor, timestep: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Call HunyuanDiT, which embeds the time in the time's own type."""
    return call_plainly(network, x_t, timestep.to(x_t.dtype), arguments)


def encode_hunyuan(pipe: Any, arguments: dict[str, Any]) -> Sequence[Tensor]:
    """Encode prompts by BERT and by T5."""
    encoded: list[Tensor] = []
    for index, count in enumerate(HUNYUAN_TOKENS):
        chosen = {"text_encoder_index": index, "max_sequence_length": count}
        encoded += pipe.encode_prompt(**{**arguments, **chosen})
    return encoded


def hunyuan_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    config, (first, second) = pipe.transformer.config, HUNYUAN_TOKENS
    return {
        "tokens": (first, config.cross_attention_dim),
        "mask": (first,),
        "tokens_2": (second, config.cross_attention_dim_t5),
        "mask_2": (second,),
    }


def hunyuan_depths(transformer: Any, height: int) -> Depths:
    """Return the blocks by their numbers from 1."""
    return numbered(transformer.blocks, transformer.inner_dim)


FAMILIES = {
    "DiTTransformer2DModel": Family(
        blocks, labels="num_embeds_ada_norm", has_null_label=True, fixed_size=True
    ),
    "HunyuanDiT2DModel": Family(
        hunyuan_depths,
        call=run_hunyuan,
        inputs=hunyuan_inputs,
        encoded=HUNYUAN_ENCODED,
        encode=encode_hunyuan,
        text_shapes=hunyuan_shapes,
    ),
}
