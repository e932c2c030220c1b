"""Pipelines of flow matching with language models as text encoders, with random weights, saved as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_components import autoencoder, t5, t5_tokenizer
from tests.helpers.tiny_language_models import (
    mistral3,
    mistral_tokenizer,
    qwen2_vl,
    qwen3,
    qwen_tokenizer,
)
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


def qwen_image(folder: Path) -> Path:
    """Save a `QwenImagePipeline`, which has packed latents of an autoencoder of videos, and names no size."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    transformer = QwenImageTransformer2DModel(
        **HEADS, in_channels=16, out_channels=4, joint_attention_dim=8, axes_dims_rope=(4, 2, 2)
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02
    )
    return saved(QwenImagePipeline(scheduler, vae, qwen2_vl(), qwen_tokenizer(), transformer), folder)


def chroma(folder: Path) -> Path:
    """Save a `ChromaPipeline`, FLUX with masked prompts, which names no size."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = ChromaTransformer2DModel(
        **HEADS,
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=32,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    scheduler, vae = FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift_factor=0.12)
    return saved(ChromaPipeline(scheduler, vae, t5(), t5_tokenizer(), transformer), folder)


def hunyuan_image(folder: Path) -> Path:
    """Save a `HunyuanImagePipeline`, which has two text encoders and guides by parts of its own.

    It names no size.
    """
    from diffusers import (
        AdaptiveProjectedMixGuidance,
        AutoencoderKLHunyuanImage,
        FlowMatchEulerDiscreteScheduler,
        HunyuanImagePipeline,
        HunyuanImageTransformer2DModel,
    )
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.75,
    )
    transformer = HunyuanImageTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(2, 2),
        text_embed_dim=8,
        text_embed_2_dim=12,
        rope_axes_dim=(4, 4),
    )
    glyphs = T5Config(vocab_size=384, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    pipe = HunyuanImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae,
        qwen2_vl(3),
        qwen_tokenizer(),
        T5EncoderModel(glyphs),
        ByT5Tokenizer(),
        transformer,
        AdaptiveProjectedMixGuidance(),
        AdaptiveProjectedMixGuidance(),
    )
    return saved(pipe, folder)


def ovis_image(folder: Path) -> Path:
    """Save an `OvisImagePipeline`, FLUX's kind with Qwen 3 as text encoder, which names no size."""
    from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline, OvisImageTransformer2DModel

    torch.manual_seed(0)
    transformer = OvisImageTransformer2DModel(
        **HEADS,
        in_channels=16,
        out_channels=16,
        num_single_layers=1,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    scheduler, vae = FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift_factor=0.12)
    text_encoder: Any = qwen3(2)
    return saved(OvisImagePipeline(scheduler, vae, text_encoder.model, qwen_tokenizer(), transformer), folder)


def longcat_image(folder: Path) -> Path:
    """Save a `LongCatImagePipeline`, FLUX's kind with Qwen2.5-VL as text encoder, which names no size.

    Its processor, which rewrites prompts, is a tokenizer here: that of Qwen2.5-VL needs torchvision.
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LongCatImagePipeline,
        LongCatImageTransformer2DModel,
    )

    torch.manual_seed(0)
    transformer = LongCatImageTransformer2DModel(
        **HEADS,
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[2, 2, 4],
    )
    scheduler, vae = FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift_factor=0.12)
    tokenizers = qwen_tokenizer(), qwen_tokenizer()
    return saved(LongCatImagePipeline(scheduler, vae, qwen2_vl(), *tokenizers, transformer), folder)
