"""Kandinsky 5, whose prompts are encoded by Qwen2.5-VL and CLIP.

The network's own forward pass takes prompts of one length, as its pipeline does without masks. Here prompts
are filled up, and the layers of attention get masks beside the prompt's tokens or their positions. The
results are those of each prompt alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from distill.networks.computation.precision import as_weights
from distill.networks.diffusers.families.depths import numbered
from distill.networks.diffusers.families.family import Depths, Family, PipelineFacts, Tensors
from distill.networks.diffusers.families.lumina import run_blocks

LONGEST_WAVE = 10000.0
"""Ratio of the highest frequency of times and positions to the lowest one, before the last step to it."""


class MaskedAttention:
    """Attention of Kandinsky 5 as its own processor computes it, with masks of the keys.

    A prompt, and the rotations of queries and keys, may come as a pair with a mask, (b, 1, 1, n).
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        rotary_emb: Any = None,
        sparse_params: None = None,
    ) -> Tensor:
        prompt, prompt_mask = _with_mask(encoder_hidden_states)
        rotations, own_mask = _with_mask(rotary_emb)
        source, mask = (hidden_states, own_mask) if prompt is None else (prompt, prompt_mask)
        by_heads = (attn.num_heads, -1)
        query = attn.to_query(hidden_states).unflatten(2, by_heads)
        key = attn.to_key(source).unflatten(2, by_heads)
        value = attn.to_value(source).unflatten(2, by_heads).transpose(1, 2)
        query, key = normalize(attn.query_norm, query), normalize(attn.key_norm, key)
        if rotations is not None:
            query, key = rotate(query, rotations), rotate(key, rotations)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        heads = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = attn.out_layer(heads.transpose(1, 2).flatten(2))
        return output


def _with_mask(value: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return a tensor and its mask, if it has one."""
    return value if isinstance(value, tuple) else (value, None)


def normalize(norm: Any, x: Tensor) -> Tensor:
    """Normalise x by an RMS norm in float32, whatever the type of its weights."""
    return rms_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.eps).type_as(x)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn pairs of channels of x, (b, n, heads, 2c), by matrices, (n, 1, c, 2, 2).

    The result is rounded to bfloat16, also in float32, as the network was trained.
    """
    pairs = x.float().unflatten(3, (-1, 1, 2))
    return (rotations * pairs).sum(-1).flatten(3).to(torch.bfloat16).type_as(x)


def take_masks(network: nn.Module) -> None:
    """Have the layers of attention take masks; those that compute attention by another kernel keep it."""
    layers: list[Any] = list(network.modules())
    for layer in layers:
        if type(getattr(layer, "processor", None)).__name__ == "Kandinsky5AttnProcessor":
            layer.set_processor(MaskedAttention())


def run(network: Any, x_t: Tensor, timestep: Tensor, text: Tensors) -> Tensor:
    """Return the flow from images to noise, for images as videos of one frame with channels last."""
    axes = network.config.axes_dims
    seen = text["mask"][:, None, None]
    time = embed_time(network.time_embeddings, timestep) + network.pooled_text_embeddings(text["pooled"])
    prompt = network.text_embeddings(text["tokens"])
    around_prompt = rotations_of(_angles(prompt.shape[1], sum(axes), x_t.device))
    prompt = run_blocks(network, network.text_transformer_blocks, prompt, time, (around_prompt, seen))
    image = network.visual_embeddings(x_t.movedim(1, -1)[:, None])
    sizes = image.shape[1:4]
    around_image = rotations_of(_image_angles(sizes, axes, x_t.device))
    image = run_blocks(
        network,
        network.visual_transformer_blocks,
        image.flatten(1, 3),
        (prompt, seen),
        time,
        around_image,
        None,
    )
    output: Tensor = network.out_layer(image.unflatten(1, sizes), prompt, time)
    return output[:, 0].movedim(-1, 1)


def embed_time(layers: Any, timestep: Tensor) -> Tensor:
    """Embed times, (b,); their waves are computed in float32, and cast to the type of the weights."""
    waves = torch.outer(timestep.float(), _frequencies(layers.model_dim // 2, timestep.device))
    waves = as_weights(torch.cat([waves.cos(), waves.sin()], 1), layers.in_layer.weight)
    embedded: Tensor = layers.out_layer(layers.activation(layers.in_layer(waves)))
    return embedded


def rotations_of(angles: Tensor) -> Tensor:
    """Return matrices, (n, 1, c, 2, 2), that turn pairs by angles, (n, c), in every head."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))[:, None]


def _frequencies(count: int, device: torch.device) -> Tensor:
    return torch.exp(
        -math.log(LONGEST_WAVE) * torch.arange(count, dtype=torch.float32, device=device) / count
    )


def _angles(count: int, width: int, device: torch.device) -> Tensor:
    """Return the angles of `count` positions on an axis of so many channels, (count, width / 2)."""
    positions = torch.arange(count, dtype=torch.float32, device=device)
    return torch.outer(positions, _frequencies(width // 2, device))


def _image_angles(sizes: Sequence[int], axes: Sequence[int], device: torch.device) -> Tensor:
    """Return the angles of positions on the axes of frames, rows and columns, (tokens, channels / 2)."""
    angles = []
    for axis, (count, width) in enumerate(zip(sizes, axes, strict=True)):
        shape = [1, 1, 1, -1]
        shape[axis] = count
        angles.append(_angles(count, width, device).reshape(shape).expand(*sizes, -1))
    return torch.cat(angles, -1).flatten(0, 2)


def prompt_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of `run` besides x_t and time: tokens, their mask, and a pooled embedding."""
    return {**text, "mask": text["mask"].bool()}


def encode(pipe: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, pooled embeddings and masks of prompts, each encoded alone.

    Among others, the pipeline would fill a prompt up without a mask, and shorten it by the longest one.
    """
    rows = [pipe.encode_prompt(**{**arguments, "prompt": [prompt]}) for prompt in arguments["prompt"]]
    tokens = [row[0][0] for row in rows]
    masks = [one.new_ones(len(one), dtype=torch.long) for one in tokens]
    pooled = torch.cat([row[1] for row in rows])
    return pad_sequence(tokens, batch_first=True), pooled, pad_sequence(masks, batch_first=True)


def text_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the longest prompt that a call of the pipeline takes."""
    config, count = pipe.transformer.config, settings["max_sequence_length"]
    return {"tokens": (count, config.in_text_dim), "pooled": (config.in_text_dim2,), "mask": (count,)}


def patch(config: Any) -> int:
    side: int = config.patch_size[1]
    return side


def depths(transformer: Any, height: int) -> Depths:
    """Return the blocks of the image by their numbers from 1."""
    return numbered(transformer.visual_transformer_blocks, transformer.config.model_dim)


FAMILIES = {
    "Kandinsky5Transformer3DModel": Family(
        depths,
        call=run,
        inputs=prompt_inputs,
        encoded=("tokens", "pooled", "mask"),
        encode=encode,
        text_shapes=text_shapes,
        patch=patch,
        channel_settings=("in_visual_dim", "out_visual_dim"),
        unguided={"guidance_scale": 0, "return_dict": False},
        default_size=128,
        ignores_latent_shift=True,
        prepare=take_masks,
    ),
}
