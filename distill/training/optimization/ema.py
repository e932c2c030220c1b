"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from distill.training.optimization.masters import copy_all, is_reduced, matched
from distill.training.parallel.shards import local_all

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Keeps `average`, a copy of a network whose weights follow those of the original, in at least float32.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the start is forgotten quickly. Call
    `update` once after each update of the network. An `average` that is given, of a sharded network, came
    from `average_of` and is sharded in the same way.
    """

    def __init__(self, network: Network, decay: float, average: Network | None = None) -> None:
        self.average: Network = average_of(network) if average is None else average
        self.decay = decay
        self.updates = 0
        pairs = zip(self.average.parameters(), network.parameters(), strict=True)
        # Frozen weights stay as they are, and copies of LoRA networks share them.
        trained = [(average, parameter) for average, parameter in pairs if parameter.requires_grad]
        self._averages = local_all([average for average, _ in trained])
        self._parameters = local_all([parameter for _, parameter in trained])
        self._buffers = list(self.average.buffers())
        self._network_buffers = list(network.buffers())

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor] | None = None) -> None:
        """Move the average towards the network's weights; buffers are copied.

        `weights` are the trained parameters in at least float32 if the network has fewer bits.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        targets = self._parameters if weights is None else weights
        torch._foreach_lerp_(self._averages, matched(targets, self._averages), 1 - decay)
        copy_all(self._buffers, self._network_buffers)
        self.updates += 1


def average_of(network: Network) -> Network:
    """Copy a network for its average: frozen, and in at least float32 where the network is trained."""
    average = copy.deepcopy(network).eval()
    for parameter in average.parameters():
        if parameter.requires_grad and is_reduced(parameter):
            parameter.data = parameter.data.float()
    return average.requires_grad_(False)
