"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from distill.training.optimization.average_settings import HalfLife
from distill.training.optimization.masters import copy_all, is_reduced, matched
from distill.training.parallel.shards import local_all

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Keeps `average`, a copy of a network whose weights follow those of the original, in at least float32.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the start is forgotten quickly; a
    `HalfLife` has a rule of its own, for batches of `batch_size` images. Call `update` once after each update
    of the network. An `average` that is given, of a sharded network, came from `average_of` and is sharded in
    the same way.
    """

    def __init__(
        self,
        network: Network,
        decay: float | HalfLife,
        average: Network | None = None,
        batch_size: int = 1,
    ) -> None:
        self.average: Network = average_of(network) if average is None else average
        self.decay, self.batch_size = decay, batch_size
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
        decay = self._decay_now()
        targets = self._parameters if weights is None else weights
        torch._foreach_lerp_(self._averages, matched(targets, self._averages), 1 - decay)
        copy_all(self._buffers, self._network_buffers)
        self.updates += 1

    def _decay_now(self) -> float:
        if isinstance(self.decay, HalfLife):
            return self.decay.decay_at(self.updates, self.batch_size)
        return min(self.decay, (1 + self.updates) / (10 + self.updates))


class EMAs(Generic[Network]):
    """Several averages of one network, of which one is `selected`: it is shown, measured and exported."""

    def __init__(
        self,
        network: Network,
        decays: Sequence[float | HalfLife],
        batch_size: int,
        averages: Sequence[Network] = (),
    ) -> None:
        given: Sequence[Network | None] = averages or [None for _ in decays]
        self.members = [
            EMA(network, decay, average, batch_size) for decay, average in zip(decays, given, strict=True)
        ]
        self.selected = 0

    @property
    def average(self) -> Network:
        """The average that is selected."""
        return self.members[self.selected].average

    @property
    def averages(self) -> list[Network]:
        """All averages, in the order of the settings."""
        return [member.average for member in self.members]

    @property
    def updates(self) -> int:
        """Number of updates so far."""
        return self.members[0].updates

    def update(self, weights: Sequence[Tensor] | None = None) -> None:
        """Move all averages towards the network's weights, as `EMA.update`."""
        for member in self.members:
            member.update(weights)

    def restore(self, updates: int, selected: int) -> None:
        """Continue after so many updates, with this average selected; its weights are loaded elsewhere."""
        for member in self.members:
            member.updates = updates
        self.selected = selected

    def select_best(self, distances: Sequence[float]) -> None:
        """Select the average with the least distance; one that is not finite is worse than any other."""
        known = [distance if math.isfinite(distance) else math.inf for distance in distances]
        self.selected = known.index(min(known))

    def saved_modules(self) -> dict[str, nn.Module]:
        """Return what checkpoints hold by name beside the model that users load, which is the selected one.

        A single average is that model.
        """
        if len(self.members) == 1:
            return {}
        return {f"average_{number}": average for number, average in enumerate(self.averages, 1)}


def measure_averages(
    averages: EMAs[Any], measure: Callable[[], Mapping[str, float]]
) -> tuple[Mapping[str, float], dict[str, float]]:
    """Measure each average, select the best, and return its measurements, and those of all by number.

    `measure` measures the selected one. The best has the least of the first measurement. With one average
    there is nothing to choose, and no second part.
    """
    if len(averages.members) == 1:
        return measure(), {}
    found = []
    for index in range(len(averages.members)):
        averages.selected = index
        found.append(measure())
    decisive = next(iter(found[0]))
    averages.select_best([measured[decisive] for measured in found])
    numbered = {
        f"ema/{number}/{name}": value
        for number, measured in enumerate(found, 1)
        for name, value in measured.items()
    }
    return found[averages.selected], {**numbered, "ema/best": averages.selected + 1}


def average_of(network: Network) -> Network:
    """Copy a network for its average: frozen, and in at least float32 where the network is trained."""
    average = copy.deepcopy(network).eval()
    for parameter in average.parameters():
        if parameter.requires_grad and is_reduced(parameter):
            parameter.data = parameter.data.float()
    return average.requires_grad_(False)
