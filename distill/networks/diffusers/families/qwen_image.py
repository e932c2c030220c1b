"""Qwen-Image, whose prompts are encoded by Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors, thousandth
from distill.networks.diffusers.families.text import prompt_shapes


def qwen_image_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of Qwen-Image: tokens, their mask, and the image's frames, rows and columns."""
    height, width = pipeline.image_shape[1:]
    return {
        "encoder_hidden_states": text["tokens"],
        "encoder_hidden_states_mask": text["mask"].bool(),
        "img_shapes": [[(1, height // 2, width // 2)]] * len(text["tokens"]),
    }


def encode(pipe: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Encode prompts by the pipeline, which returns no mask if all have the same length."""
    tokens, mask = pipe.encode_prompt(**arguments)
    if mask is None:
        mask = tokens.new_ones(tokens.shape[:2])
    return tokens, mask.long()


def text_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the longest prompt that a call of the pipeline takes."""
    return prompt_shapes(settings["max_sequence_length"], pipe.transformer.config.joint_attention_dim)


def patch(config: Any) -> int:
    """Return 1: the network's own setting means the squares that are packed."""
    return 1


FAMILIES = {
    "QwenImageTransformer2DModel": Family(
        blocks,
        inputs=qwen_image_inputs,
        encoded=("tokens", "mask"),
        encode=encode,
        text_shapes=text_shapes,
        packing=2,
        returns_packed=False,
        patch=patch,
        time_factor=thousandth,
        unguided={"true_cfg_scale": 1},
        default_size=128,
    ),
}
