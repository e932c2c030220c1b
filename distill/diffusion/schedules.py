"""Noise schedules: alpha and sigma of x_t = alpha(t) x_0 + sigma(t) eps, and the time t at a given
sigma/alpha."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import torch
from torch import Tensor

from distill.diffusion.constants import constant
from distill.types import NoiseSchedule


@dataclasses.dataclass(frozen=True)
class EDM:
    """Variance-exploding schedule: alpha = 1, sigma = t (Karras et al. 2022)."""

    @property
    def t_max(self) -> float | None:
        return None

    def alpha(self, t: Tensor) -> Tensor:
        return t.new_ones(()).expand(t.shape)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def t(self, noise_to_signal: Tensor) -> Tensor:
        return noise_to_signal

    def shifted(self, t: Tensor, factor: float) -> Tensor:
        return t * factor

    def step_times(self, t: float, count: int) -> list[float]:
        """Return times spaced evenly on the grid of rho = 7 that ends at 0.002 (eq. 5)."""
        high, low = t ** (1 / 7), 0.002 ** (1 / 7)
        return [(high + step / count * (low - high)) ** 7 for step in range(count)]


@dataclasses.dataclass(frozen=True)
class Flow:
    """Schedule of rectified flow: alpha = 1 - t, sigma = t, t in (0, 1] (Liu et al. 2022; SD3, FLUX,
    Sana)."""

    shift: float = 1.0
    """Factor by which the sampler of the model raises sigma/alpha of evenly spaced times (Esser et al. 2024,
    eq. 23). Noise levels may be shifted as much."""

    @property
    def t_max(self) -> float | None:
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def t(self, noise_to_signal: Tensor) -> Tensor:
        return noise_to_signal / (1 + noise_to_signal)

    def shifted(self, t: Tensor, factor: float) -> Tensor:
        return factor * t / (1 + (factor - 1) * t)

    def step_times(self, t: float, count: int) -> list[float]:
        return [t * (1 - step / count) for step in range(count)]


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Variance-preserving schedule on the discrete steps 0 .. n - 1 of a trained model (Ho et al. 2020; SD,
    SDXL).

    `log_noise_to_signal` holds log(sigma/alpha) at each step, ascending. It is interpolated linearly between
    the steps, so that a time need not be whole, and constant beyond the ends.
    """

    log_noise_to_signal: tuple[float, ...]

    @classmethod
    def of(cls, alphas_cumprod: Tensor) -> DDPM:
        """Build the schedule from alpha^2 at every step, (n,), which must fall strictly, within (0, 1)."""
        squared = alphas_cumprod.double()
        if not ((squared > 0) & (squared < 1)).all() or not (squared.diff() < 0).all():
            raise ValueError("alphas_cumprod: expected to fall strictly, within (0, 1)")
        return cls(tuple(((1 - squared) / squared).log().div(2).tolist()))

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DDPM:
        """Build the linear schedule of Ho et al. 2020, whose beta rises from `first` to `last`."""
        return cls.of((1 - torch.linspace(first, last, steps, dtype=torch.float64)).cumprod(0))

    @property
    def t_max(self) -> float | None:
        return float(len(self.log_noise_to_signal) - 1)

    def alpha(self, t: Tensor) -> Tensor:
        # alpha^2 = 1/(1 + (sigma/alpha)^2) and sigma^2 = 1 - alpha^2.
        return torch.sigmoid(-2 * self._log_noise_to_signal(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(2 * self._log_noise_to_signal(t)).sqrt()

    def t(self, noise_to_signal: Tensor) -> Tensor:
        table = self._table(noise_to_signal)
        level = noise_to_signal.log()
        below = torch.searchsorted(table, level.contiguous(), right=True).sub(1).clamp(0, len(table) - 2)
        return (below + (level - table[below]) / (table[below + 1] - table[below])).clamp(0, len(table) - 1)

    def shifted(self, t: Tensor, factor: float) -> Tensor:
        return self.t((self._log_noise_to_signal(t) + math.log(factor)).exp())

    def step_times(self, t: float, count: int) -> list[float]:
        """Divide the t + 1 steps down to 0 evenly, in whole steps: 999, 749, 499 and 249, as DMD2 does."""
        return [t - step * (t + 1) // count for step in range(count)]

    def _log_noise_to_signal(self, t: Tensor) -> Tensor:
        table = self._table(t)
        below = t.long().clamp(0, len(table) - 2)
        return torch.lerp(table[below], table[below + 1], (t - below).clamp(0, 1))

    def _table(self, like: Tensor) -> Tensor:
        return constant(self.log_noise_to_signal, like)


def describe_schedule(schedule: NoiseSchedule) -> dict[str, Any]:
    """Return a schedule as plain data: its class and its fields."""
    return {"class": type(schedule).__name__, **dataclasses.asdict(cast(EDM | Flow | DDPM, schedule))}


def read_schedule(description: dict[str, Any]) -> NoiseSchedule:
    """Build the schedule of a description.

    Raises KeyError for an unknown class and TypeError for fields that it does not have.
    """
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.items()
        if name != "class"
    }
    schedule: NoiseSchedule = {"EDM": EDM, "Flow": Flow, "DDPM": DDPM}[description["class"]](**fields)
    return schedule
