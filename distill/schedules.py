"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, and the inverse from the noise-to-signal ratio sigma/alpha back to t."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class NoiseSchedule(Protocol):
    """alpha, sigma and the inverse of sigma/alpha, elementwise on tensors of times."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def t(self, noise_to_signal: Tensor) -> Tensor:
        """The time at which sigma/alpha equals `noise_to_signal`."""
        ...


@dataclasses.dataclass(frozen=True)
class EDM:
    """Variance-exploding: alpha = 1, sigma = t (Karras et al. 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        return t.new_ones(()).expand(t.shape)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def t(self, noise_to_signal: Tensor) -> Tensor:
        return noise_to_signal


def like(value: Tensor, x: Tensor) -> Tensor:
    """Append axes to a per-sample (b,) tensor so that it broadcasts against x (b, ...)."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
