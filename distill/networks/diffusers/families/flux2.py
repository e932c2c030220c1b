"""FLUX.2: dev, whose guidance is distilled, and klein."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors, thousandth
from distill.networks.diffusers.families.flux import image_positions


def flux2_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of FLUX.2: text, positions of its tokens and of the image's, and guidance scale.

    A position is (0, row, column, place in the text), in float32: bfloat16 has not all places.
    """
    tokens = text["tokens"]
    height, width = pipeline.image_shape[1:]
    guidance = None
    if pipeline.embedded_guidance is not None:
        guidance = tokens.new_full((len(tokens),), pipeline.embedded_guidance)
    return {
        "encoder_hidden_states": tokens,
        "txt_ids": text_positions(tokens.shape[1], tokens.device),
        "img_ids": pad(image_positions(height // 2, width // 2, torch.float32, tokens.device), (0, 1)),
        "guidance": guidance,
    }


@functools.lru_cache(maxsize=16)
def text_positions(count: int, device: torch.device) -> Tensor:
    """Return (0, 0, 0, place) of each token of a text, (count, 4)."""
    with torch.inference_mode(False):
        places = torch.arange(count, dtype=torch.float32, device=device)
        return pad(places[:, None], (3, 0))


def flux2_shift(pipeline: PipelineFacts) -> float:
    """Return the factor on sigma/alpha in the pipeline's call of its default number of steps.

    Its logarithm is a fit of FLUX.2's authors to the number of tokens and of steps.
    """
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    config = pipeline.pipe.scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.shift)
    height, width = pipeline.image_shape[1:]
    steps = inspect.signature(type(pipeline.pipe).__call__).parameters["num_inference_steps"].default
    number = compute_empirical_mu(height * width // 4, steps)
    return float(number if config.time_shift_type == "linear" else math.exp(number))


def flux2_exported(network: Any, guidance: float | None) -> nn.Module:
    """Return a network that computes with this guidance scale if the pipeline passes its default one.

    FLUX.2 has no biases to which the embedding of a scale could be added. But the embedding begins with
    cosines and sines of multiples of the scale, which a rotation of each pair turns into those of another
    scale, and the rotation is merged into the layer that reads them.
    """
    default = default_guidance()
    if guidance is None or guidance == default:
        return network
    embed = network.time_guidance_embed
    weight = embed.guidance_embedder.linear_1.weight
    scales = torch.tensor([1000 * default, 1000 * guidance], device=weight.device)
    cos, sin = embed.time_proj(scales).double().chunk(2, 1)
    angle_cos = cos[0] * cos[1] + sin[0] * sin[1]
    angle_sin = sin[1] * cos[0] - cos[1] * sin[0]
    of_cos, of_sin = weight.detach().double().chunk(2, 1)
    rotated = torch.cat([of_cos * angle_cos + of_sin * angle_sin, of_sin * angle_cos - of_cos * angle_sin], 1)
    exported = copy.deepcopy(network, {id(value): value for value in network.parameters()})
    exported.time_guidance_embed.guidance_embedder.linear_1.weight = nn.Parameter(
        rotated.to(weight.dtype), requires_grad=False
    )
    return exported.eval()


def default_guidance() -> float:
    """Return the guidance scale with which the pipeline of FLUX.2 dev is called by default."""
    from diffusers import Flux2Pipeline

    default: float = inspect.signature(Flux2Pipeline.__call__).parameters["guidance_scale"].default
    return default


FAMILIES = {
    "Flux2Transformer2DModel": Family(
        blocks,
        inputs=flux2_inputs,
        encoded=("tokens", ""),
        packing=2,
        time_factor=thousandth,
        takes_guidance=True,
        keeps_guidance=True,
        default_size=128,
        exported=flux2_exported,
        shift=flux2_shift,
    ),
}
