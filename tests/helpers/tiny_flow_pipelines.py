"""Pipelines of flow matching with language models as text encoders, with random weights, saved as folders."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.helpers.tiny_language_models import mistral3, mistral_tokenizer, qwen3, qwen_tokenizer
from tests.helpers.tiny_pipelines import HEADS, saved


def flux2(folder: Path, klein: bool = False) -> Path:
    """Save a `Flux2Pipeline`, or a `Flux2KleinPipeline`, of 256x256 images, the only size that it knows.

    Latents are packed, and normalised by a batch norm. The guidance of the first one is distilled.
    """
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKLFlux2(**blocks, block_out_channels=(4, 8), latent_channels=4, norm_num_groups=4)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        **HEADS,
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=24,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=not klein,
    )
    parts = {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": vae,
        "transformer": transformer,
    }
    if klein:
        pipe = Flux2KleinPipeline(**parts, text_encoder=qwen3(28), tokenizer=qwen_tokenizer())
    else:
        pipe = Flux2Pipeline(**parts, text_encoder=mistral3(31), tokenizer=mistral_tokenizer())
    return saved(pipe, folder)
