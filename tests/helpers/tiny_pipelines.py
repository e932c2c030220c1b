"""Pipelines of the real classes with random weights, saved as folders; nothing is downloaded."""

from __future__ import annotations

import inspect
import sys
import unittest.mock
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers import latent_layouts
from tests.helpers.tiny_components import (
    autoencoder,
    gemma,
    gemma_tokenizer,
    t5,
    t5_tokenizer,
    text_encoder,
    tokenizer,
    unet,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise schedule of Stable Diffusion."""
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
"""Sizes of the transformers."""


def ddpm(folder: Path, classes: int | None = None, **scheduler: Any) -> Path:
    """Save an unconditional or class-conditional `DDPMPipeline` of 8x8 grey images."""
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
    """Save a `StableDiffusionPipeline` of 16x16 images in 8x8 latents.

    `kind` and `scheduler` change the scheduler of SD 1.5.
    """
    import diffusers
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    chosen = getattr(diffusers, kind)(**{**BETAS, "steps_offset": 1, "set_alpha_to_one": False, **scheduler})
    parts = {
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "unet": unet(),
        "vae": autoencoder(),
        "scheduler": chosen,
    }
    pipe = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return saved(pipe, folder)


def stable_diffusion_xl(folder: Path) -> Path:
    """Save a `StableDiffusionXLPipeline` of 16x16 images.

    It has two text encoders, a pooled embedding and micro-conditioning.
    """
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    network = unet(
        cross_attention_dim=24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    parts = {
        "text_encoder": text_encoder(8),
        "text_encoder_2": text_encoder(16, pooled=True),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
    }
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    pipe = StableDiffusionXLPipeline(
        **parts, unet=network, vae=autoencoder(), scheduler=scheduler, add_watermarker=False
    )
    return saved(pipe, folder)


def dit(folder: Path) -> Path:
    """Save a `DiTPipeline` of 16x16 images in 8x8 latents.

    Its network has 1000 classes, the number that its pipeline assumes, and a learned variance.
    """
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, sample_size=8, patch_size=2, norm_num_groups=4
    )
    return saved(
        DiTPipeline(
            transformer, autoencoder(), DDIMScheduler(clip_sample=False), {0: "tench", 1: "goldfish"}
        ),
        folder,
    )


def pixart_alpha(folder: Path) -> Path:
    """Save a `PixArtAlphaPipeline` of 256x256 images in 128x128 latents.

    From this size on it has micro-conditioning.
    """
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    torch.manual_seed(0)
    parts = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(),
        "vae": autoencoder(mid_block_add_attention=False),
    }
    return saved(
        PixArtAlphaPipeline(**parts, transformer=pixart(128, 16), scheduler=DPMSolverMultistepScheduler()),
        folder,
    )


def pixart_sigma(folder: Path) -> Path:
    """Save a `PixArtSigmaPipeline` of 16x16 images."""
    from diffusers import EulerDiscreteScheduler, PixArtSigmaPipeline

    torch.manual_seed(0)
    parts = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(),
        "vae": autoencoder(),
        "transformer": pixart(8, 2),
    }
    return saved(PixArtSigmaPipeline(**parts, scheduler=EulerDiscreteScheduler()), folder)


def pixart(size: int, patch: int) -> torch.nn.Module:
    from diffusers import PixArtTransformer2DModel

    sizes = {"sample_size": size, "patch_size": patch, "cross_attention_dim": 24, "caption_channels": 32}
    return PixArtTransformer2DModel(
        **{**HEADS, "num_attention_heads": 3}, **sizes, in_channels=4, out_channels=8, norm_num_groups=4
    )


def stable_diffusion_3(folder: Path) -> Path:
    """Save a `StableDiffusion3Pipeline` of 16x16 images: three text encoders, flow matching.

    One layer has dual attention as in SD 3.5.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "pos_embed_max_size": 8,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 24,
    }
    transformer = SD3Transformer2DModel(
        **HEADS, **sizes, in_channels=4, out_channels=4, dual_attention_layers=(0,), qk_norm="rms_norm"
    )
    encoders = {
        "text_encoder": text_encoder(8, pooled=True),
        "text_encoder_2": text_encoder(16, pooled=True),
        "text_encoder_3": t5(),
    }
    tokenizers = {"tokenizer": tokenizer(), "tokenizer_2": tokenizer(), "tokenizer_3": t5_tokenizer()}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = autoencoder(shift_factor=0.06)
    return saved(
        StableDiffusion3Pipeline(
            **encoders, **tokenizers, transformer=transformer, vae=vae, scheduler=scheduler
        ),
        folder,
    )


def flux(folder: Path, guidance: bool = True) -> Path:
    """Save a `FluxPipeline` of 256x256 images in 128x128 latents, the only size that it knows.

    Its latents are packed and its guidance is distilled.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    sizes = {
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (2, 2, 4),
        "num_single_layers": 1,
        "guidance_embeds": guidance,
    }
    parts = {
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(),
        "transformer": FluxTransformer2DModel(**HEADS, **sizes, in_channels=16),
    }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return saved(FluxPipeline(**parts, vae=autoencoder(shift_factor=0.12), scheduler=scheduler), folder)


def sana(folder: Path, **changes: Any) -> Path:
    """Save a `SanaPipeline` of 32x32 images.

    It has linear attention, a deep autoencoder, and prompts with an instruction before them.
    """
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(0)
    cross = {
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 8,
    }
    transformer = SanaTransformer2DModel(
        **HEADS, **cross, in_channels=4, out_channels=4, sample_size=16, **changes
    )
    kinds, widths, scales = ("ResBlock", "EfficientViTBlock"), (8, 8), ((), (5,))
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        **{
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("block_types", kinds), ("block_out_channels", widths))
        },
        **{
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("layers_per_block", (1, 1)), ("qkv_multiscales", scales))
        },
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return saved(SanaPipeline(gemma_tokenizer(), gemma(), vae, transformer, scheduler), folder)


@latent_layouts.prompt_by_prompt
def renoised(pipe: Any, z: Tensor, condition: Sequence[Any], steps: int, **settings: Any) -> Tensor:
    """Call a pipeline as `call` does, in several steps.

    z holds the noises of all steps, (b, steps * channels, h, w); the scheduler draws all but the first.
    """
    first, *further = z.chunk(steps, 1)
    drawn = [latent_layouts.stepped(pipe, noise) for noise in further]
    if "FlowMatch" in type(pipe.scheduler).__name__:
        drawn.append(torch.zeros(()))  # it draws after the last step too, and multiplies by 0
    with unittest.mock.patch.object(
        sys.modules[type(pipe.scheduler).__module__], "randn_tensor", side_effect=drawn
    ):
        return call(pipe, first, condition, num_inference_steps=steps, **settings)


@latent_layouts.prompt_by_prompt
def call(pipe: Any, z: Tensor, condition: Sequence[Any], **settings: Any) -> Tensor:
    """Call a pipeline with prompts or labels as users call it, and return images in [0, 1].

    Only the noise is given, in the layout of our networks.
    """
    factor = getattr(pipe, "vae_scale_factor", 2)
    size = {"height": z.shape[2] * factor, "width": z.shape[3] * factor, "use_resolution_binning": False}
    known = inspect.signature(type(pipe).__call__).parameters
    settings |= {name: value for name, value in size.items() if name in known}
    if hasattr(pipe, "encode_prompt"):
        latents = latent_layouts.given(pipe, z)
        return pipe(prompt=condition, latents=latents, output_type="pt", return_dict=False, **settings)[0]
    with unittest.mock.patch.object(sys.modules[type(pipe).__module__], "randn_tensor", return_value=z):
        images = pipe(condition if "class_labels" in known else len(z), output_type="np", **settings).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def saved(pipe: Any, folder: Path) -> Path:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():  # also where an untrained network has zeros
                parameter.data.add_(0.05 * torch.randn_like(parameter))
    pipe.save_pretrained(folder)
    return folder
