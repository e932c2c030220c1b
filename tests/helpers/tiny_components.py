"""Tiny networks with random weights, and tokenizers, of which `tiny_pipelines` are made."""

from __future__ import annotations

import string
from typing import Any

import torch


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


def autoencoder(**changes: Any) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        **blocks, block_out_channels=(4, 8), latent_channels=4, norm_num_groups=4, sample_size=16, **changes
    )


def text_encoder(width: int = 16, pooled: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {
        "hidden_size": width,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": width,
    }
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    return kind(
        CLIPTextConfig(
            **sizes,
            vocab_size=60,
            max_position_embeddings=16,
            bos_token_id=58,
            eos_token_id=59,
            pad_token_id=59,
        )
    )


def tokenizer() -> Any:
    """Make a tokenizer of CLIP whose words are letters."""
    from transformers import CLIPTokenizer

    letters = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    words = [*letters, *(f"<unused{i}>" for i in range(6)), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=16)


def t5() -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def t5_tokenizer() -> Any:
    """Make a tokenizer of T5 whose words are letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0)


def gemma() -> torch.nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "head_dim": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
    }
    return Gemma2Model(Gemma2Config(**sizes, vocab_size=32))


def gemma_tokenizer() -> Any:
    """Make a tokenizer of Gemma whose words are letters."""
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *string.ascii_lowercase]
    return GemmaTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[])
