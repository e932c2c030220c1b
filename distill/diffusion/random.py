"""Random numbers that depend on a seed and on their purpose."""

from __future__ import annotations

import torch


def seeded(*key: int) -> torch.Generator:
    """Return a generator of random numbers that depend on the key alone."""
    state = 0
    for number in key:
        # Constants of the splitmix64 generator, which gives neighbouring keys unrelated seeds.
        state = ((state ^ number) + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)
