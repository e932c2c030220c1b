"""HunyuanImage 2.1, whose prompts are encoded by Qwen2.5-VL, and the quoted words in them by ByT5.

The network's own forward pass moves the tokens of the prompt before their filling, and reads the masks from
the device for it. Attention does not depend on the order of these tokens, which have no positions, so that
they stay where they are here. The results are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors


def prompt_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of `run` besides x_t and time: tokens and masks of both encoders."""
    return {name: value.bool() if name.startswith("mask") else value for name, value in text.items()}


def run(network: Any, x_t: Tensor, timestep: Tensor, text: Tensors) -> Tensor:
    """Return the flow from images to noise.

    Activations are checkpointed as the network has it, and those of the blocks that refine the prompt too.
    """
    is_checkpointed = network.gradient_checkpointing and torch.is_grad_enabled()
    run_block = network._gradient_checkpointing_func if is_checkpointed else call_block
    rotations = network.rope(x_t)
    embed = network.time_guidance_embed
    time = embed.timestep_embedder(embed.time_proj(timestep).to(x_t.dtype))
    image = network.x_embedder(x_t)
    prompt = run_block(network.context_embedder, text["tokens"], timestep, text["mask"])
    mask = text["mask"]
    if network.context_embedder_2 is not None:
        prompt = torch.cat([prompt, network.context_embedder_2(text["tokens_2"])], 1)
        mask = torch.cat([mask, text["mask_2"]], 1)
    mask = torch.cat([mask.new_ones(image.shape[:2]), mask], 1)[:, None, None]
    for block in [*network.transformer_blocks, *network.single_transformer_blocks]:
        image, prompt = run_block(block, image, prompt, time, mask, rotations)
    return to_image(network.proj_out(network.norm_out(image, time)), network.config.patch_size, x_t)


def call_block(block: Any, *inputs: Any) -> Any:
    """Call a block as it is."""
    return block(*inputs)


def to_image(tokens: Tensor, patch: Sequence[int], x_t: Tensor) -> Tensor:
    """Turn tokens, (b, n, channels * squares), into (b, channels, h, w) of x_t's size."""
    rows, columns = (side // length for side, length in zip(x_t.shape[2:], patch, strict=True))
    squares = tokens.unflatten(2, (-1, *patch)).unflatten(1, (rows, columns))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def encode(pipe: Any, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    """Encode prompts by the pipeline, which is told their number."""
    encoded: tuple[Tensor, ...] = pipe.encode_prompt(**arguments, batch_size=len(arguments["prompt"]))
    return encoded


def text_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one prompt, which the pipeline fills up to them by itself."""
    config = pipe.transformer.config
    count, glyph_count = pipe.tokenizer_max_length, pipe.tokenizer_2_max_length
    return {
        "tokens": (count, config.text_embed_dim),
        "mask": (count,),
        "tokens_2": (glyph_count, config.text_embed_2_dim or pipe.text_encoder_2.config.d_model),
        "mask_2": (glyph_count,),
    }


def patch(config: Any) -> int:
    side: int = config.patch_size[0]
    return side


def first_tokens(output: Tensor, count: int) -> Tensor:
    """Return the tokens of the image, (b, count, width), if they stand before those of the prompt."""
    return output[:, :count]


FAMILIES = {
    "HunyuanImageTransformer2DModel": Family(
        blocks,
        call=run,
        inputs=prompt_inputs,
        encoded=("tokens", "mask", "tokens_2", "mask_2"),
        encode=encode,
        text_shapes=text_shapes,
        patch=patch,
        image_tokens=first_tokens,
        image_output=0,
        default_size=64,
        guiders=("guider", "ocr_guider"),
    ),
}
