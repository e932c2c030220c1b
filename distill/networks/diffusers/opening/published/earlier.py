"""Published pipelines by the configurations of their parts, for machines without the hub."""

from __future__ import annotations

from typing import Any

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
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
SD21_UNET = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
OPEN_CLIP_H = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
VAE_16 = {
    **VAE,
    "latent_channels": 16,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SD3_VAE = {**VAE_16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
FLUX_VAE = {**VAE_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
PartConfigs = dict[str, tuple[str, str, dict[str, Any]]]
"""Library, class and configuration of each part of a pipeline, by the part's name."""


def sd21(size: int, prediction: str) -> tuple[str, PartConfigs]:
    """Describe Stable Diffusion 2.1 for latents of this height."""
    return "StableDiffusionPipeline", {
        "unet": ("diffusers", "UNet2DConditionModel", {**SD21_UNET, "sample_size": size}),
        "vae": ("diffusers", "AutoencoderKL", {**VAE, "sample_size": 768}),
        "text_encoder": ("transformers", "CLIPTextModel", OPEN_CLIP_H),
        "scheduler": (
            "diffusers",
            "DDIMScheduler",
            {**BETAS, "prediction_type": prediction, "clip_sample": False, "set_alpha_to_one": False},
        ),
    }


def pixart_alpha(size: int) -> tuple[str, PartConfigs]:
    """Describe PixArt-alpha XL/2 for latents of this height."""
    return "PixArtAlphaPipeline", {
        "transformer": (
            "diffusers",
            "PixArtTransformer2DModel",
            {"sample_size": size, "caption_channels": 4096},
        ),
        "vae": ("diffusers", "AutoencoderKL", VAE),
        "text_encoder": ("transformers", "T5EncoderModel", T5_XXL),
        "scheduler": ("diffusers", "DPMSolverMultistepScheduler", LINEAR),
    }


def dit(size: int) -> tuple[str, PartConfigs]:
    """Describe DiT XL/2 for latents of this height."""
    return "DiTPipeline", {
        "transformer": ("diffusers", "DiTTransformer2DModel", {"sample_size": size, "out_channels": 8}),
        "vae": ("diffusers", "AutoencoderKL", VAE),
        "scheduler": ("diffusers", "DDIMScheduler", {**LINEAR, "clip_sample": False}),
    }


def flux(guided: bool) -> tuple[str, PartConfigs]:
    """Describe FLUX.1: dev if `guided`, else schnell."""
    shift = {"shift": 3.0, "use_dynamic_shifting": True} if guided else {"shift": 1.0}
    return "FluxPipeline", {
        "transformer": ("diffusers", "FluxTransformer2DModel", {"guidance_embeds": guided}),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
        "text_encoder_2": ("transformers", "T5EncoderModel", T5_XXL),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", shift),
    }


def sd3_medium() -> tuple[str, PartConfigs]:
    """Describe Stable Diffusion 3 medium, with all three text encoders."""
    sizes = {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    }
    return "StableDiffusion3Pipeline", {
        "transformer": ("diffusers", "SD3Transformer2DModel", sizes),
        "vae": ("diffusers", "AutoencoderKL", SD3_VAE),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection", CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", {**CLIP_G, "hidden_act": "gelu"}),
        "text_encoder_3": ("transformers", "T5EncoderModel", T5_XXL),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    }


PUBLISHED: dict[str, tuple[str, PartConfigs]] = {
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
            "text_encoder_2": (
                "transformers",
                "CLIPTextModelWithProjection",
                {**CLIP_G, "hidden_act": "gelu"},
            ),
            "scheduler": ("diffusers", "EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "leading"}),
        },
    ),
    "stabilityai/stable-diffusion-2-1-base": sd21(64, "epsilon"),
    "stabilityai/stable-diffusion-2-1": sd21(96, "v_prediction"),
    "PixArt-alpha/PixArt-XL-2-512x512": pixart_alpha(64),
    "PixArt-alpha/PixArt-XL-2-1024-MS": pixart_alpha(128),
    "facebook/DiT-XL-2-256": dit(32),
    "facebook/DiT-XL-2-512": dit(64),
    "stabilityai/stable-diffusion-3-medium-diffusers": sd3_medium(),
    "black-forest-labs/FLUX.1-dev": flux(True),
    "black-forest-labs/FLUX.1-schnell": flux(False),
}
"""Pipelines that a dry run knows without the hub: their classes, and what gives the sizes of their parts."""
