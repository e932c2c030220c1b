"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Keeps `average`, a copy of a network whose weights follow those of the original.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the start is forgotten quickly. Call
    `update` once after each update of the network.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.average: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, parameter in zip(self.average.parameters(), network.parameters(), strict=True):
            if average is not parameter:  # copies share frozen weights
                average.lerp_(parameter, 1 - decay)
        for mine, theirs in zip(self.average.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
