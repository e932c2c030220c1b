"""Pipelines written in the layout of the original Stable Diffusion: one file, with names of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

RESNETS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_original(pipe: Any, path: Path) -> Path:
    """Save a `StableDiffusionPipeline` as `sd-v1-5.safetensors` was."""
    tensors = {
        **original_unet(pipe.unet),
        **original_autoencoder(pipe.vae),
        **_prefixed("cond_stage_model.transformer.text_model.", _bare(pipe.text_encoder.state_dict())),
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def original_unet(unet: Any) -> dict[str, Tensor]:
    """Return the weights of a `UNet2DConditionModel` by the names of latent diffusion's `UNetModel`."""
    layers = unet.config.layers_per_block
    names = {name: _unet_name(name, layers) for name in unet.state_dict()}
    attended = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
    tensors = {}
    for name, value in unet.state_dict().items():
        found = re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name)
        if found:  # it follows the attention of the block's last layer, if there is one
            block = int(found[1])
            place = 2 if attended[block] else 1
            names[name] = f"output_blocks.{block * (layers + 1) + layers}.{place}.{found[2]}"
        tensors[names[name]] = value
    return _prefixed("model.diffusion_model.", tensors)


def original_autoencoder(vae: Any) -> dict[str, Tensor]:
    """Return the weights of an `AutoencoderKL` by the names of latent diffusion's."""
    levels = len(vae.config.block_out_channels)
    tensors = {_autoencoder_name(name, levels): value for name, value in vae.state_dict().items()}
    linear = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight")
    return _prefixed(
        "first_stage_model.",
        {name: value[..., None, None] if linear.search(name) else value for name, value in tensors.items()},
    )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of CLIP without the wrapper's name, which older versions of transformers have."""
    return {name.removeprefix("text_model."): value for name, value in tensors.items()}


def _unet_name(name: str, layers: int) -> str:
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", name)
    if found:
        side, kind, rest = found[1], found[3], found[5]
        block, layer = int(found[2]), int(found[4])
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op', 1)}"
        row = 1 + block * (layers + 1) + layer if side == "down" else block * (layers + 1) + layer
        place = "input_blocks" if side == "down" else "output_blocks"
        return f"{place}.{row}.{0 if kind == 'resnets' else 1}.{_resnet(rest) if kind == 'resnets' else rest}"
    found = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
    if found:
        row = 2 * int(found[2]) + (found[1] == "attentions")
        return f"middle_block.{row}.{_resnet(found[3]) if found[1] == 'resnets' else found[3]}"
    return name


def _resnet(rest: str) -> str:
    layer, _, end = rest.partition(".")
    return f"{RESNETS[layer]}.{end}"


def _autoencoder_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name
    )
    if "mid_block.attentions.0." in name:
        before, _, rest = name.partition("mid_block.attentions.0.")
        layer, _, end = rest.rpartition(".")
        name = f"{before}mid.attn_1.{ATTENTION[layer]}.{end}"
    return name
