"""Distributions of the noise level, as quantile functions: u uniform in (0, 1) -> the schedule's time t.

Because the level is a function of u, u itself bins samples into quantiles of whatever distribution was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError
from distill.config.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import NoiseSchedule


class Karras(Settings):
    """The rho-grid of Karras et al. 2022 (eq. 5), read between two fractions of its length: f-distill (0.002 to 0.998), SiD and SiDA (0.2 to 1)."""

    name: Literal["karras"] = "karras"
    sigma_min: float = Field(0.002, gt=0)
    """Noise level at the clean end of the grid."""
    sigma_max: float = Field(80.0, gt=0)
    """Noise level at the noisy end of the grid."""
    rho: float = Field(7.0, gt=0)
    """Curvature of the grid: larger puts more levels near sigma_min."""
    start: float = Field(0.0, ge=0, le=1)
    """Fraction of the grid, counted from sigma_max, at which the range begins."""
    stop: float = Field(1.0, ge=0, le=1)
    """Fraction of the grid, counted from sigma_max, at which the range ends."""

    @model_validator(mode="after")
    def _rises(self) -> Karras:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        check_order("start", self.start, "stop", self.stop)
        return self

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The time at each quantile u, noisiest first."""
        fraction = self.start + u * (self.stop - self.start)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return schedule.t((high + fraction * (low - high)) ** self.rho)


class LogNormal(Settings):
    """log(sigma/alpha) ~ N(mean, std^2): EDM's training distribution, and the fake score's in SiD."""

    name: Literal["lognormal"] = "lognormal"
    mean: float = -1.2
    """Mean of log(sigma/alpha)."""
    std: float = Field(1.2, gt=0)
    """Standard deviation of log(sigma/alpha)."""

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The time at each quantile u."""
        import torch

        return schedule.t((self.mean + self.std * torch.special.ndtri(u)).exp())


class Uniform(Settings):
    """Uniform in the schedule's own time, between two fractions of its noisiest: DMD, f-distill on SD, SiD-LSG."""

    name: Literal["uniform"] = "uniform"
    start: float = Field(0.0, ge=0, le=1)
    """Least time, as a fraction of the schedule's noisiest."""
    stop: float = Field(1.0, ge=0, le=1)
    """Greatest time, as a fraction of the schedule's noisiest."""

    @model_validator(mode="after")
    def _rises(self) -> Uniform:
        check_order("start", self.start, "stop", self.stop)
        return self

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The time at each quantile u. Raises UserError for a schedule without a noisiest time."""
        if schedule.t_max is None:
            raise UserError(
                f"noise_levels: uniform needs a schedule that ends; expected karras or lognormal for {type(schedule).__name__}"
            )
        return schedule.t_max * (self.start + u * (self.stop - self.start))


def check_order(low: str, least: float, high: str, most: float) -> None:
    """Raises ValueError where a range is upside down."""
    if least > most:
        raise ValueError(f"{low}: {least:g} is above {high}, {most:g}; expected at most as much")


NoiseLevels = Annotated[Karras | LogNormal | Uniform, Field(discriminator="name")]
