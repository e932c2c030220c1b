"""Published pipelines of flow matching since FLUX.2, and Chroma."""

from __future__ import annotations

from typing import Any

from distill.networks.diffusers.opening.published.earlier import CLIP_L, FLUX_VAE, T5_XXL, PartConfigs
from distill.networks.diffusers.opening.published.further import QWEN3_4B

MISTRAL_24B = {
    "model_type": "mistral",
    "vocab_size": 131072,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 1540,
    "patch_size": 14,
}
QWEN3_8B = {**QWEN3_4B, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
QWEN3_2B = {
    **QWEN3_4B,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
SHIFTED = {"shift": 3.0, "use_dynamic_shifting": True}
QWEN_VL_7B = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
    },
    "tie_word_embeddings": False,
}
BYT5_SMALL = {
    "vocab_size": 384,
    "d_model": 1472,
    "d_kv": 64,
    "d_ff": 3584,
    "num_layers": 12,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
"""The encoder of ByT5 small, which HunyuanImage 2.1 fine-tuned for quoted words; the vocabulary is not
verified."""
HUNYUAN_IMAGE_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 64,
    "block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "layers_per_block": 2,
    "spatial_compression_ratio": 32,
    "sample_size": 384,
    "scaling_factor": 0.75289,
}
FLUX2_KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
FLUX2_KLEIN_9B = {
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}


def flux2_dev() -> tuple[str, PartConfigs]:
    """Describe FLUX.2 dev, whose network has the default sizes of its class."""
    return "Flux2Pipeline", {
        "transformer": ("diffusers", "Flux2Transformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKLFlux2", {}),
        "text_encoder": (
            "transformers",
            "Mistral3ForConditionalGeneration",
            {"text_config": MISTRAL_24B, "vision_config": PIXTRAL, "tie_word_embeddings": False},
        ),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", SHIFTED),
    }


def flux2_klein(network: dict[str, Any], text_encoder: dict[str, Any]) -> tuple[str, PartConfigs]:
    """Describe FLUX.2 klein, base or distilled."""
    return "Flux2KleinPipeline", {
        "transformer": ("diffusers", "Flux2Transformer2DModel", network),
        "vae": ("diffusers", "AutoencoderKLFlux2", {}),
        "text_encoder": ("transformers", "Qwen3ForCausalLM", text_encoder),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", SHIFTED),
    }


def qwen_image() -> tuple[str, PartConfigs]:
    """Describe Qwen-Image, whose network and autoencoder have the default sizes of their classes."""
    shift = {
        "use_dynamic_shifting": True,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    }
    return "QwenImagePipeline", {
        "transformer": ("diffusers", "QwenImageTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKLQwenImage", {}),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", QWEN_VL_7B),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", shift),
    }


def chroma() -> tuple[str, PartConfigs]:
    """Describe Chroma, whose network has the default sizes of its class, and FLUX.1's autoencoder and T5."""
    return "ChromaPipeline", {
        "transformer": ("diffusers", "ChromaTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "T5EncoderModel", T5_XXL),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {}),
    }


def hunyuan_image() -> tuple[str, PartConfigs]:
    """Describe HunyuanImage 2.1, whose network has the default sizes of its class."""
    return "HunyuanImagePipeline", {
        "transformer": ("diffusers", "HunyuanImageTransformer2DModel", {"text_embed_2_dim": 1472}),
        "vae": ("diffusers", "AutoencoderKLHunyuanImage", HUNYUAN_IMAGE_VAE),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", QWEN_VL_7B),
        "text_encoder_2": ("transformers", "T5EncoderModel", BYT5_SMALL),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
    }


def ovis_image() -> tuple[str, PartConfigs]:
    """Describe Ovis-Image, whose network has the default sizes of its class."""
    return "OvisImagePipeline", {
        "transformer": ("diffusers", "OvisImageTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "Qwen3Model", QWEN3_2B),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", SHIFTED),
    }


def longcat_image() -> tuple[str, PartConfigs]:
    """Describe LongCat-Image."""
    return "LongCatImagePipeline", {
        "transformer": (
            "diffusers",
            "LongCatImageTransformer2DModel",
            {"num_layers": 10, "num_single_layers": 20},
        ),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", QWEN_VL_7B),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", SHIFTED),
    }


def kandinsky5() -> tuple[str, PartConfigs]:
    """Describe Kandinsky 5 Image Lite, with FLUX.1's autoencoder.

    Sizes and shift are those of the authors' own code; the shift has not been compared with the hub.
    """
    sizes = {
        "in_visual_dim": 16,
        "out_visual_dim": 16,
        "model_dim": 2560,
        "ff_dim": 10240,
        "num_visual_blocks": 50,
        "axes_dims": (32, 48, 48),
    }
    return "Kandinsky5T2IPipeline", {
        "transformer": ("diffusers", "Kandinsky5Transformer3DModel", sizes),
        "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", QWEN_VL_7B),
        "text_encoder_2": ("transformers", "CLIPTextModel", CLIP_L),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    }


PUBLISHED: dict[str, tuple[str, PartConfigs]] = {
    "black-forest-labs/FLUX.2-dev": flux2_dev(),
    "black-forest-labs/FLUX.2-klein-4B": flux2_klein(FLUX2_KLEIN_4B, QWEN3_4B),
    "black-forest-labs/FLUX.2-klein-base-4B": flux2_klein(FLUX2_KLEIN_4B, QWEN3_4B),
    "black-forest-labs/FLUX.2-klein-9B": flux2_klein(FLUX2_KLEIN_9B, QWEN3_8B),
    "black-forest-labs/FLUX.2-klein-base-9B": flux2_klein(FLUX2_KLEIN_9B, QWEN3_8B),
    "lodestones/Chroma1-Base": chroma(),
    "lodestones/Chroma1-HD": chroma(),
    "hunyuanvideo-community/HunyuanImage-2.1-Diffusers": hunyuan_image(),
    "AIDC-AI/Ovis-Image-7B": ovis_image(),
    "meituan-longcat/LongCat-Image": longcat_image(),
    "kandinskylab/Kandinsky-5.0-T2I-Lite-pretrain-Diffusers": kandinsky5(),
    "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers": kandinsky5(),
    "Qwen/Qwen-Image": qwen_image(),
    "Qwen/Qwen-Image-2512": qwen_image(),
}
