"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from distill.training.optimization.masters import copy_all, is_reduced

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Keeps `average`, a copy of a network whose weights follow those of the original, in at least float32.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the start is forgotten quickly. Call
    `update` once after each update of the network.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.average: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        pairs = zip(self.average.parameters(), network.parameters(), strict=True)
        # Frozen weights stay as they are, and copies of LoRA networks share them.
        trained = [(average, parameter) for average, parameter in pairs if parameter.requires_grad]
        self._averages: list[Tensor] = [average for average, _ in trained]
        self._parameters: list[Tensor] = [parameter for _, parameter in trained]
        for average in self._averages:
            if is_reduced(average):
                average.data = average.data.float()
        self._buffers = list(self.average.buffers())
        self._network_buffers = list(network.buffers())

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor] | None = None) -> None:
        """Move the average towards the network's weights; buffers are copied.

        `weights` are the trained parameters in at least float32 if the network has fewer bits.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        targets = self._parameters if weights is None else weights
        torch._foreach_lerp_(self._averages, _matched(targets, self._averages), 1 - decay)
        copy_all(self._buffers, self._network_buffers)
        self.updates += 1


def _matched(weights: Sequence[Tensor], averages: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights in the types and on the devices of their averages."""
    return [weight.to(average) for weight, average in zip(weights, averages, strict=True)]
