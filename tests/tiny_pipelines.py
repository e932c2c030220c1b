"""Pipelines of random weights, of the very classes that the real ones have, saved as real pipeline folders: nothing is downloaded."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's."""


def ddpm(folder: Path, classes: int | None = None, **scheduler: Any) -> Path:
    """An unconditional or class-conditional `DDPMPipeline` of 8x8 grey images."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        num_class_embeds=classes,
    )
    return saved(DDPMPipeline(unet, DDPMScheduler(clip_sample=False, **scheduler)), folder)


def stable_diffusion(folder: Path, kind: str = "PNDMScheduler", **scheduler: Any) -> Path:
    """A `StableDiffusionPipeline` of 16x16 images in 8x8 latents; `kind` and `scheduler` change the scheduler of SD 1.5."""
    import diffusers
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    chosen = getattr(diffusers, kind)(**{**BETAS, "steps_offset": 1, "set_alpha_to_one": False, **scheduler})
    parts = {"text_encoder": text_encoder(), "tokenizer": tokenizer(), "unet": unet(), "vae": autoencoder(), "scheduler": chosen}
    pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return saved(pipe, folder)


def stable_diffusion_xl(folder: Path) -> Path:
    """A `StableDiffusionXLPipeline` of 16x16 images: two text encoders, a pooled embedding, micro-conditioning."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    network = unet(
        cross_attention_dim=24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    parts = {"text_encoder": text_encoder(8), "text_encoder_2": text_encoder(16, pooled=True), "tokenizer": tokenizer(), "tokenizer_2": tokenizer()}
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    pipe = StableDiffusionXLPipeline(**parts, unet=network, vae=autoencoder(), scheduler=scheduler, add_watermarker=False)
    return saved(pipe, folder)


def unet(**changes: Any) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            **changes,
        }
    )


def autoencoder() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**blocks, block_out_channels=(4, 8), latent_channels=4, norm_num_groups=4, sample_size=16)


def text_encoder(width: int = 16, pooled: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": width}
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    return kind(CLIPTextConfig(**sizes, vocab_size=60, max_position_embeddings=16, bos_token_id=58, eos_token_id=59, pad_token_id=59))


def tokenizer() -> Any:
    """Letters are its words."""
    from transformers import CLIPTokenizer

    letters = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    words = [*letters, *(f"<unused{i}>" for i in range(6)), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=16)


def saved(pipe: Any, folder: Path) -> Path:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():  # also where an untrained network has zeros
                parameter.data.add_(0.05 * torch.randn_like(parameter))
    pipe.save_pretrained(folder)
    return folder
