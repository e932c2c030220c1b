"""Noise and conditions for the networks of diffusers."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.types import Condition, Denoiser

PROMPTS = ["a cat", "xyz"]


def noise(teacher: Denoiser, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, *teacher.image_shape, generator=torch.Generator().manual_seed(seed))


def condition(teacher: Denoiser) -> Condition:
    if teacher.takes_text:
        return teacher.encode_prompts(PROMPTS)
    return Condition(torch.tensor([3, 1])) if teacher.label_count else Condition()
