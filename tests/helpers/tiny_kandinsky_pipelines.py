"""Kandinsky 5's pipeline of images with random weights, saved as a folder.

It knows images of about a megapixel only, and latents of an eighth of their height. From the import of this
module on, pipelines of its class know 16x16 images in 8x8 latents too; as a program it trains a run so.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from diffusers import Kandinsky5T2IPipeline

import train
from distill.config.command_line import run_command
from tests.helpers.tiny_components import autoencoder, tokenizer
from tests.helpers.tiny_language_models import qwen2_vl, qwen_tokenizer
from tests.helpers.tiny_pipelines import saved

SIZE = (16, 16)
CLIP_TOKENS = 77
"""Tokens to which the pipeline fills prompts up for CLIP, whatever the tokenizer says."""


def _know_small_images(kind: Any) -> None:
    """Have pipelines of this class make images of `SIZE` too."""
    own = kind.__init__

    @functools.wraps(own)
    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        self.resolutions = [*self.resolutions, SIZE]
        self.vae_scale_factor_spatial = 2

    kind.__init__ = begin


_know_small_images(Kandinsky5T2IPipeline)


def kandinsky5(folder: Path) -> Path:
    """Save a `Kandinsky5T2IPipeline`, whose prompts have no masks, and which names no size.

    It does not shift latents, though its autoencoder, FLUX.1's, has a shift.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5Transformer3DModel

    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=8,
        in_text_dim2=16,
        time_dim=8,
        model_dim=16,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(2, 2, 4),
    )
    # The processor of Qwen2.5-VL, which takes images too, needs torchvision; here it is a tokenizer.
    pipe = Kandinsky5T2IPipeline(
        transformer,
        autoencoder(scaling_factor=0.36, shift_factor=0.12),
        qwen2_vl(),
        qwen_tokenizer(),
        clip(),
        tokenizer(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return saved(pipe, folder)


def clip() -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 16,
    }
    config = CLIPTextConfig(
        **sizes,
        vocab_size=60,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=58,
        eos_token_id=59,
        pad_token_id=59,
    )
    return CLIPTextModel(config)


if __name__ == "__main__":
    run_command(train.main)
