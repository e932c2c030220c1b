"""Describe published pipelines with language models as text encoders, and newer ones of earlier families.

Configurations of Z-Image and Lumina 2, and of the denoisers of AuraFlow, HunyuanDiT, Stable Diffusion 3.5
medium and the first Sana, are those that other public projects quote from the hub; CogView 4's denoiser and
autoencoder are those of diffusers' conversion script.
The following are from memory and have not been compared with the hub: sizes of HunyuanDiT's text encoders,
Kolors, Stable Diffusion 3.5 large, Sana 1.5, and the autoencoder and scheduler of all Sanas.
"""

from __future__ import annotations

from typing import Any

from distill.networks.diffusers.opening.published.earlier import (
    CLIP_G,
    CLIP_L,
    FLUX_VAE,
    SD3_VAE,
    SDXL_UNET,
    T5_XXL,
    VAE,
    VAE_16,
    PartConfigs,
)

SANA15_NORM = "rms_norm_across_heads"
FLOW = "FlowMatchEulerDiscreteScheduler"
SDXL_VAE = {**VAE, "scaling_factor": 0.13025, "sample_size": 1024}
T5_XL = {**T5_XXL, "d_model": 2048, "d_ff": 5120, "num_heads": 32}
GEMMA_2B = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
QWEN3_4B = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
GLM_4_9B = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "attention_bias": True,
}
ROBERTA_LARGE = {
    "vocab_size": 47020,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
CHAT_GLM_3 = {
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "original_rope": True,
}
DEEP_VAE = {
    "latent_channels": 32,
    "scaling_factor": 0.41407,
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
}


def z_image(shift: float) -> tuple[str, PartConfigs]:
    """Describe Z-Image, or its Turbo, by the shift of its scheduler."""
    return "ZImagePipeline", {
        "transformer": ("diffusers", "ZImageTransformer2DModel", {"axes_lens": [1536, 512, 512]}),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "Qwen3Model", QWEN3_4B),
        "scheduler": ("diffusers", FLOW, {"shift": shift}),
    }


def lumina2() -> tuple[str, PartConfigs]:
    """Describe Lumina-Image 2.0."""
    return "Lumina2Pipeline", {
        "transformer": ("diffusers", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "Gemma2Model", GEMMA_2B),
        "scheduler": ("diffusers", FLOW, {"shift": 6.0}),
    }


def cogview4() -> tuple[str, PartConfigs]:
    """Describe CogView 4, of 6 billion parameters."""
    denoiser = {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32}
    vae = {
        **VAE_16,
        "block_out_channels": (128, 512, 1024, 1024),
        "layers_per_block": 3,
        "mid_block_add_attention": False,
        "scaling_factor": 1.0,
    }
    shift = {"base_shift": 0.25, "max_shift": 0.75}
    dynamic = {"use_dynamic_shifting": True, "time_shift_type": "linear"}
    return "CogView4Pipeline", {
        "transformer": ("diffusers", "CogView4Transformer2DModel", denoiser),
        "vae": ("diffusers", "AutoencoderKL", vae),
        "text_encoder": ("transformers", "GlmModel", GLM_4_9B),
        "scheduler": ("diffusers", FLOW, {**shift, **dynamic}),
    }


def aura_flow() -> tuple[str, PartConfigs]:
    """Describe AuraFlow v0.3."""
    return "AuraFlowPipeline", {
        "transformer": ("diffusers", "AuraFlowTransformer2DModel", {"pos_embed_max_size": 9216}),
        "vae": ("diffusers", "AutoencoderKL", SDXL_VAE),
        "text_encoder": ("transformers", "UMT5EncoderModel", T5_XL),
        "scheduler": ("diffusers", FLOW, {"shift": 1.73}),
    }


def hunyuan_dit() -> tuple[str, PartConfigs]:
    """Describe HunyuanDiT v1.2."""
    denoiser = {
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 128,
        "hidden_size": 1408,
        "num_layers": 40,
        "mlp_ratio": 4.3637,
        "use_style_cond_and_image_meta_size": False,
    }
    betas = {"beta_start": 0.00085, "beta_end": 0.018, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return "HunyuanDiTPipeline", {
        "transformer": ("diffusers", "HunyuanDiT2DModel", denoiser),
        "vae": ("diffusers", "AutoencoderKL", SDXL_VAE),
        "text_encoder": ("transformers", "BertModel", ROBERTA_LARGE),
        "text_encoder_2": ("transformers", "T5EncoderModel", {**T5_XL, "vocab_size": 250112}),
        "scheduler": ("diffusers", "DDPMScheduler", {**betas, "prediction_type": "v_prediction"}),
    }


def kolors() -> tuple[str, PartConfigs]:
    """Describe Kolors, whose text encoder has the sizes that are its class's defaults."""
    denoiser = {
        **SDXL_UNET,
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "projection_class_embeddings_input_dim": 5632,
    }
    betas = {"beta_start": 0.00085, "beta_end": 0.014, "beta_schedule": "scaled_linear", "steps_offset": 1}
    steps = {"num_train_timesteps": 1100, "timestep_spacing": "leading"}
    return "KolorsPipeline", {
        "unet": ("diffusers", "UNet2DConditionModel", denoiser),
        "vae": ("diffusers", "AutoencoderKL", SDXL_VAE),
        "text_encoder": ("kolors", "ChatGLMModel", CHAT_GLM_3),
        "scheduler": ("diffusers", "EulerDiscreteScheduler", {**betas, **steps}),
    }


def sd35(layers: int, **changes: Any) -> tuple[str, PartConfigs]:
    """Describe Stable Diffusion 3.5 with so many blocks, and as many heads of 64 channels."""
    denoiser = {
        "num_layers": layers,
        "num_attention_heads": layers,
        "caption_projection_dim": 64 * layers,
        "qk_norm": "rms_norm",
        **changes,
    }
    clip_g = {**CLIP_G, "hidden_act": "gelu"}
    return "StableDiffusion3Pipeline", {
        "transformer": ("diffusers", "SD3Transformer2DModel", denoiser),
        "vae": ("diffusers", "AutoencoderKL", SD3_VAE),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection", CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", clip_g),
        "text_encoder_3": ("transformers", "T5EncoderModel", T5_XXL),
        "scheduler": ("diffusers", FLOW, {"shift": 3.0}),
    }


def sana(layers: int, **changes: Any) -> tuple[str, PartConfigs]:
    """Describe Sana with so many blocks; 1.5 differs from the first version by `changes`."""
    denoiser = {"num_layers": layers, "sample_size": 32, **changes}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return "SanaPipeline", {
        "transformer": ("diffusers", "SanaTransformer2DModel", denoiser),
        "vae": ("diffusers", "AutoencoderDC", DEEP_VAE),
        "text_encoder": ("transformers", "Gemma2Model", GEMMA_2B),
        "scheduler": ("diffusers", "DPMSolverMultistepScheduler", flow),
    }


PUBLISHED: dict[str, tuple[str, PartConfigs]] = {
    "Tongyi-MAI/Z-Image": z_image(6.0),
    "Tongyi-MAI/Z-Image-Turbo": z_image(3.0),
    "Alpha-VLLM/Lumina-Image-2.0": lumina2(),
    "THUDM/CogView4-6B": cogview4(),
    "fal/AuraFlow-v0.3": aura_flow(),
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers": hunyuan_dit(),
    "Kwai-Kolors/Kolors-diffusers": kolors(),
    "stabilityai/stable-diffusion-3.5-medium": sd35(
        24, pos_embed_max_size=384, dual_attention_layers=tuple(range(13))
    ),
    "stabilityai/stable-diffusion-3.5-large": sd35(38, pos_embed_max_size=192),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": sana(20),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": sana(20, qk_norm=SANA15_NORM),
    "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers": sana(60, qk_norm=SANA15_NORM),
}
"""Pipelines by their names on the hub."""
