"""Noise schedules."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class NoiseSchedule(Protocol):
    """A noise schedule: x_t = alpha(t) x_0 + sigma(t) eps, elementwise in tensors of times."""

    @property
    def t_max(self) -> float | None:
        """The noisiest time, None if there is no bound."""
        ...

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def t(self, noise_to_signal: Tensor) -> Tensor:
        """Return the time at which sigma/alpha equals `noise_to_signal`."""
        ...

    def shifted(self, t: Tensor, factor: float) -> Tensor:
        """Return the times whose sigma/alpha is `factor` times that of t, within the schedule."""
        ...

    def step_times(self, t: float, count: int) -> list[float]:
        """Return the times at which `count` steps begin: t, and then evenly on the way to no noise."""
        ...


def max_noise_to_signal(schedule: NoiseSchedule) -> float:
    """Return the largest sigma/alpha of a schedule."""
    if schedule.t_max is None:
        return math.inf
    t = torch.tensor(schedule.t_max, dtype=torch.float64)
    return (schedule.sigma(t) / schedule.alpha(t)).item()


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """Append axes to a per-sample (b,) tensor so that it broadcasts against x (b, ...)."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
