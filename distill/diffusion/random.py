"""Random numbers that depend on a seed and on their purpose."""

from __future__ import annotations

import torch
from torch import Tensor


def seeded(*key: int) -> torch.Generator:
    """Return a generator of random numbers that depend on the key alone."""
    state = 0
    for number in key:
        # Constants of the splitmix64 generator, which gives neighbouring keys unrelated seeds.
        state = ((state ^ number) + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def open_uniform(count: int, random: torch.Generator) -> Tensor:
    """Draw uniform numbers, (count,) float32, strictly inside (0, 1), where every quantile function is
    finite."""
    return torch.rand(count, generator=random, dtype=torch.float64).clamp(1e-7, 1 - 1e-7).float()
