"""Folders of tiny random networks of transformers, as rewards open them, with images and prompts for them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.types import Condition, Reward, Text
from tests.helpers import tiny_pipelines

SIZE, LENGTH, WORDS = 24, 16, 60
"""Pixels that the networks see, maximum number of tokens of a prompt, and number of CLIP's words."""
PROMPTS = ("a cat", "two dogs on a sofa")
LONG = "abcdefghij abcdefghij"
"""A prompt of more letters, each a token, than CLIP takes here."""


def disturbed(network: Any) -> Any:
    """Change all weights of a network, also those that begin as 0 or 1, so that each one matters."""
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def clip(folder: Path, **processor: Any) -> Path:
    """Write a `CLIPModel` with its tokenizer and its image processor."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59}
    text = {**shared, **ends, "hidden_size": 16, "vocab_size": WORDS, "max_position_embeddings": LENGTH}
    vision = {**shared, "hidden_size": 20, "image_size": SIZE, "patch_size": 8}
    disturbed(
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    ).save_pretrained(folder)
    return clip_processor(folder, **processor)


def clip_processor(folder: Path, **changes: Any) -> Path:
    """Write CLIP's tokenizer and image processor alone."""
    from transformers import CLIPImageProcessorPil

    tiny_pipelines.tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(**{"size": {"shortest_edge": SIZE}, "crop_size": SIZE, **changes}).save_pretrained(
        folder
    )
    return folder


def bert_tokenizer(folder: Path) -> Path:
    """Make a tokenizer whose words are letters and their continuations."""
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *(f"##{letter}" for letter in string.ascii_lowercase),
    ]
    BertTokenizer(vocab={word: row for row, word in enumerate(words)}).save_pretrained(folder)
    return folder


def pixels(count: int = 2, height: int = 40, width: int = 31) -> Tensor:
    """Make bytes (count, 3, height, width), some of them black or white."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (128 + 100 * smooth).clip(0, 255).to(torch.uint8)


def floats(height: int = 40, width: int = 31) -> Tensor:
    """Make images within [-1, 1] in float64 that require a gradient."""
    return (pixels(height=height, width=width).double() / 127.5 - 1).mul(0.9).requires_grad_()


def prompted(*prompts: str) -> Condition:
    """Make a condition of prompts that are not encoded: no student reads them here."""
    return Condition(text=Text({"tokens": torch.zeros(len(prompts), 1)}, {}, prompts))


def gradient_errors(
    reward: Reward, images: Tensor, cond: Condition, step: float = 1e-6
) -> tuple[float, float]:
    """Compare a gradient with central differences along a random direction.

    Returns their relative difference and the size of the central difference. `images` are float64, and the
    reward is converted to it.
    """
    reward.double()
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(reward(images, cond).sum(), images)
    ahead, behind = (
        reward(images.detach().add(sign * step * direction).requires_grad_(), cond).sum().detach()
        for sign in (1, -1)
    )
    measured = float(ahead - behind) / (2 * step)
    return abs(float((gradient * direction).sum()) - measured) / abs(measured), abs(measured)
