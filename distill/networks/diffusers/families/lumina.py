"""Lumina 2 and Z-Image, whose blocks see the tokens of image and prompt as one sequence.

Their own forward passes take each prompt at its length, which they read from the device, and join image and
prompt one by one. Here prompts are filled up to one length, and masks hide what is added; attention does not
depend on the order of tokens, so that the image may come first. The results are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from distill.networks.diffusers.families.depths import numbered
from distill.networks.diffusers.families.family import Depths, Family, PipelineFacts, Tensors
from distill.networks.diffusers.families.text import MASKED, prompt_shapes

Z_PATCH = 2
"""Side of the squares of latents that make a token of Z-Image, as its pipelines call it."""
Z_MULTIPLE = 32
"""Z-Image fills tokens of images and prompts up to a multiple of this, by learned tokens."""


def text_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of the functions below: tokens and their mask."""
    return {"tokens": text["tokens"], "mask": text["mask"].bool()}


def run_lumina2(network: Any, x_t: Tensor, timestep: Tensor, text: Tensors) -> Tensor:
    """Return Lumina 2's flow from images to noise; its own points to images, and its time runs to them."""
    tokens, mask, side = text["tokens"], text["mask"], network.config.patch_size
    rotations = functools.partial(
        rotations_of, dims=network.config.axes_dim_rope, theta=network.rope_embedder.theta
    )
    time, prompt = network.time_caption_embed(x_t, 1 - timestep / 1000, tokens)
    around_prompt = rotations(_prompt_positions(tokens, 0))
    prompt = run_blocks(network, network.context_refiner, prompt, mask, around_prompt)
    around_image = rotations(_image_positions(x_t, side, mask.sum(1)))
    image = network.x_embedder(to_patches(x_t, side))
    image = run_blocks(network, network.noise_refiner, image, None, around_image, time)
    joint_mask = torch.cat([mask.new_ones(image.shape[:2]), mask], 1)
    around = torch.cat([around_image, around_prompt], 1)
    joint = run_blocks(network, network.layers, torch.cat([image, prompt], 1), joint_mask, around, time)
    return -from_patches(network.norm_out(joint[:, : image.shape[1]], time), side, x_t)


def run_z_image(network: Any, x_t: Tensor, timestep: Tensor, text: Tensors) -> Tensor:
    """Return Z-Image's flow from images to noise; its own points to images, and its time runs to them."""
    tokens, mask, kind = text["tokens"], text["mask"], f"{Z_PATCH}-1"
    config = network.config
    rotations = functools.partial(
        rotations_of, dims=config.axes_dims, theta=config.rope_theta, dtype=torch.float32
    )
    time = network.t_embedder((1000 - timestep) / 1000 * network.t_scale).type_as(x_t)
    lengths = _filled_up(mask.sum(1))
    image = network.all_x_embedder[kind](to_patches(x_t, Z_PATCH))
    count = image.shape[1]
    added = _filled_up(count) - count
    image = torch.cat([image, network.x_pad_token.to(image).expand(len(image), added, -1)], 1)
    positions = _image_positions(x_t, Z_PATCH, lengths + 1)
    positions = torch.cat([positions, positions.new_zeros(len(image), added, 3)], 1)
    around_image = rotations(positions)
    image = run_blocks(network, network.noise_refiner, image, None, around_image, time)

    prompt = network.cap_embedder(tokens)
    prompt = torch.where(mask[..., None], prompt, network.cap_pad_token.to(prompt))
    seen = torch.arange(tokens.shape[1], device=mask.device) < lengths[:, None]
    around_prompt = rotations(_prompt_positions(tokens, 1))
    prompt = run_blocks(network, network.context_refiner, prompt, seen, around_prompt)

    joint_mask = torch.cat([seen.new_ones(image.shape[:2]), seen], 1)
    around = torch.cat([around_image, around_prompt], 1)
    joint = run_blocks(network, network.layers, torch.cat([image, prompt], 1), joint_mask, around, time)
    return -from_patches(network.all_final_layer[kind](joint[:, :count], c=time), Z_PATCH, x_t)


def run_blocks(network: Any, layers: Iterable[nn.Module], x: Tensor, *inputs: Any) -> Tensor:
    """Run blocks one after another, with activation checkpointing if the network has it switched on."""
    is_checkpointed = network.gradient_checkpointing and torch.is_grad_enabled()
    for layer in layers:
        x = network._gradient_checkpointing_func(layer, x, *inputs) if is_checkpointed else layer(x, *inputs)
    return x


def rotations_of(
    positions: Tensor, dims: Sequence[int], theta: float, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return complex numbers of magnitude 1 that turn queries and keys at these positions.

    Positions on three axes, (b, n, 3), give (b, n, sum(dims) / 2) angles, which are rounded to `dtype`.
    """
    angles = []
    for position, count in zip(positions.double().unbind(-1), dims, strict=True):
        exponents = torch.arange(0, count, 2, dtype=torch.float64, device=positions.device) / count
        angles.append(position[..., None] * theta**-exponents)
    angle = torch.cat(angles, -1).to(dtype)
    return torch.polar(torch.ones_like(angle), angle)


def _prompt_positions(tokens: Tensor, start: int) -> Tensor:
    """Return the positions of a prompt's tokens, (b, n, 3): on the first axis, from `start`."""
    count, length = tokens.shape[:2]
    positions = torch.arange(start, start + length, device=tokens.device)[:, None]
    return torch.nn.functional.pad(positions, (0, 2)).expand(count, -1, -1)


def _image_positions(x_t: Tensor, side: int, starts: Tensor) -> Tensor:
    """Return the positions of an image's tokens, (b, n, 3): `starts`, (b,), then row and column."""
    rows, columns = (
        torch.arange(length // side, device=x_t.device).to(starts.dtype) for length in x_t.shape[2:]
    )
    grid = torch.cartesian_prod(rows, columns).expand(len(x_t), -1, -1)
    return torch.cat([starts[:, None, None].expand(-1, grid.shape[1], 1), grid], -1)


def to_patches(x: Tensor, side: int) -> Tensor:
    """Turn (b, c, h, w) into tokens (b, h w / side^2, side^2 c) of squares, channels last."""
    squares = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(tokens: Tensor, side: int, x: Tensor) -> Tensor:
    """Turn tokens of squares into (b, c, h, w) of the height and width of x."""
    rows, columns = (length // side for length in x.shape[2:])
    squares = tokens.unflatten(2, (side, side, -1)).unflatten(1, (rows, columns))
    return squares.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _filled_up(length: Any) -> Any:
    """Round a length, or a tensor of lengths, up to a multiple of `Z_MULTIPLE`."""
    return (length + Z_MULTIPLE - 1) // Z_MULTIPLE * Z_MULTIPLE


def first_tokens(output: Tensor, count: int) -> Tensor:
    """Return the tokens of the image, (b, count, width), if they stand before those of the prompt."""
    return output[:, :count]


def encode_z_image(pipe: Any, arguments: dict[str, Any]) -> Sequence[Tensor]:
    """Return tokens and masks of prompts, and of no prompt, in place of lists of tokens."""
    encoded = []
    for texts in pipe.encode_prompt(**arguments):
        ones = [text.new_ones(len(text), dtype=torch.long) for text in texts]
        encoded += [pad_sequence(texts, batch_first=True), pad_sequence(ones, batch_first=True)]
    return encoded


def lumina2_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return prompt_shapes(settings["max_sequence_length"], pipe.transformer.config.cap_feat_dim)


def z_image_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a prompt whose tokens can be filled up to a multiple of 32."""
    return prompt_shapes(_filled_up(settings["max_sequence_length"]), pipe.transformer.config.cap_feat_dim)


def lumina2_depths(transformer: Any, height: int) -> Depths:
    """Return the blocks of image and prompt by their numbers from 1."""
    return numbered(transformer.layers, transformer.config.hidden_size)


def z_image_depths(transformer: Any, height: int) -> Depths:
    """Return the blocks of image and prompt by their numbers from 1."""
    return numbered(transformer.layers, transformer.config.dim)


FAMILIES = {
    "Lumina2Transformer2DModel": Family(
        lumina2_depths,
        call=run_lumina2,
        inputs=text_inputs,
        encoded=MASKED,
        text_shapes=lumina2_shapes,
        image_tokens=first_tokens,
    ),
    "ZImageTransformer2DModel": Family(
        z_image_depths,
        call=run_z_image,
        inputs=text_inputs,
        encoded=MASKED,
        encode=encode_z_image,
        text_shapes=z_image_shapes,
        patch=lambda config: Z_PATCH,
        image_tokens=first_tokens,
        default_size=128,
    ),
}
