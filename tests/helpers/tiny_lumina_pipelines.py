"""Tiny pipelines of Lumina 2 and Z-Image with random weights, saved as folders."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_components import autoencoder, gemma, gemma_tokenizer
from tests.helpers.tiny_pipelines import saved

TEMPLATE = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
"""Template of a chat. Qwen 3's has the role and the content too."""


def lumina2(folder: Path) -> Path:
    """Save a `Lumina2Pipeline` of 16x16 images in 8x8 latents."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(2, 2, 4),
        axes_lens=(300, 8, 8),
        cap_feat_dim=8,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    vae = autoencoder(shift_factor=0.1)
    return saved(Lumina2Pipeline(transformer, scheduler, vae, gemma(), gemma_tokenizer()), folder)


def z_image(folder: Path) -> Path:
    """Save a `ZImagePipeline`, which names no size. Its latents are of 2x2 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        t_scale=100.0,  # less sensitive to rounded times than the published 1000
        axes_dims=[2, 2, 4],
        axes_lens=[600, 64, 64],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = autoencoder(shift_factor=0.1)
    return saved(ZImagePipeline(scheduler, vae, qwen3(), qwen_tokenizer(), transformer), folder)


def qwen3() -> torch.nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "head_dim": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
    }
    return Qwen3Model(Qwen3Config(**sizes, vocab_size=32))


def qwen_tokenizer() -> Any:
    """Make a tokenizer of Qwen whose words are letters."""
    from transformers import Qwen2Tokenizer

    words = ["<|endoftext|>", "\u0120", *string.ascii_lowercase]
    tokenizer = Qwen2Tokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[])
    tokenizer.chat_template = TEMPLATE
    return tokenizer
