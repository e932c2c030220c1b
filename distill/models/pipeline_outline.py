"""Diffusers pipelines without weights: their networks on the meta device, built from their configurations."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.errors import UserError

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD15_UNET = {"sample_size": 64, "cross_attention_dim": 768}
SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
Parts = dict[str, tuple[str, str, dict[str, Any]]]
"""Name of a part -> its library, its class, and its configuration."""
PUBLISHED: dict[str, tuple[str, Parts]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "StableDiffusionPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel", SD15_UNET),
            "vae": ("diffusers", "AutoencoderKL", VAE),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "scheduler": ("diffusers", "PNDMScheduler", {**BETAS, "skip_prk_steps": True}),
        },
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": (
        "StableDiffusionXLPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel", SDXL_UNET),
            "vae": ("diffusers", "AutoencoderKL", {**VAE, "scaling_factor": 0.13025, "sample_size": 1024}),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", {**CLIP_G, "hidden_act": "gelu"}),
            "scheduler": ("diffusers", "EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "leading"}),
        },
    ),
}
"""What the presets' teachers are on the hub: their classes and configurations, as published, for a machine that cannot ask it."""


def outline_pipeline(source: str, revision: str | None = None) -> Any:
    """The pipeline of a folder or of the hub, which may lack weights and tokenizers. Raises UserError where its configurations cannot be had."""
    import diffusers

    from distill.models.pipeline import check_folder

    if Path(source).is_dir():
        check_folder(Path(source), "teacher.path")
    try:
        kind, parts = PUBLISHED[source] if source in PUBLISHED and not Path(source).is_dir() else _read_parts(source, revision)
        pipeline = getattr(diffusers, kind)
        wanted = [name for name, parameter in inspect.signature(pipeline.__init__).parameters.items() if parameter.default is inspect.Parameter.empty]
        built: dict[str, Any] = {name: _outline_part(*parts[name]) if name in parts else None for name in wanted if name != "self"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"teacher.path: the configurations of {source} cannot be read as a diffusers pipeline's ({error})") from error
    if "safety_checker" in built:
        built["requires_safety_checker"] = False
    return pipeline(**built)


def _read_parts(source: str, revision: str | None) -> tuple[str, Parts]:
    """Class and parts of a pipeline, without what only turns text and images into numbers."""
    import diffusers
    import transformers

    index = diffusers.DiffusionPipeline.load_config(source, revision=revision)
    parts: Parts = {}
    for name, entry in index.items():
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or entry[0] not in ("diffusers", "transformers"):
            continue
        library, kind = entry
        place = {"subfolder": name, "revision": revision}
        if library == "diffusers":
            parts[name] = (library, kind, getattr(diffusers, kind).load_config(source, **place))
        elif isinstance(getattr(transformers, kind), type) and issubclass(getattr(transformers, kind), nn.Module):
            parts[name] = (library, kind, getattr(transformers, kind).config_class.from_pretrained(source, **place).to_dict())
    return index["_class_name"], parts


def _outline_part(library: str, kind: str, config: dict[str, Any]) -> Any:
    import diffusers
    import transformers

    if library == "transformers":
        network = getattr(transformers, kind)
        with torch.device("meta"):
            return network(network.config_class(**config))
    part = getattr(diffusers, kind)
    if not issubclass(part, nn.Module):
        return part.from_config(config)
    with torch.device("meta"):
        return part.from_config(config)
