"""Distributions of the noise level, as quantile functions from u, uniform in (0, 1), to the schedule's time
t.

Because the level is a function of u, u itself bins samples into quantiles of the distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill.config.errors import UserError
from distill.config.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import NoiseSchedule


def _known_shift(value: Any) -> Any:
    """Accept a number above 0 and `scheduler`, with one message for everything else."""
    if value == "scheduler":
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, or scheduler; found {value!r}")
    return number


Shift = Annotated[float | Literal["scheduler"], BeforeValidator(_known_shift)]


class Karras(Settings):
    """Noise levels spread evenly over the rho-grid of Karras et al. 2022 (eq. 5), or over a part of it.

    f-distill takes the part from 0.002 to 0.998, SiD and SiDA that from 0.2 to 1.
    """

    name: Literal["karras"] = "karras"
    sigma_min: float = Field(0.002, gt=0)
    """Minimum noise level of the grid, as sigma/alpha. The default is EDM's."""
    sigma_max: float = Field(80.0, gt=0)
    """Maximum noise level of the grid, as sigma/alpha. The default is EDM's."""
    rho: float = Field(7.0, gt=0)
    """Curvature of the grid: a larger one puts more levels near `sigma_min`. The default is EDM's."""
    start: float = Field(0.0, ge=0, le=1)
    """Fraction of the grid at which the range begins, counted from `sigma_max`. A larger one leaves out the
    highest noise levels."""
    stop: float = Field(1.0, ge=0, le=1)
    """Fraction of the grid at which the range ends, counted from `sigma_max`. A smaller one leaves out the
    lowest noise levels."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Karras:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        check_order("start", self.start, "stop", self.stop)
        return self

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the time at each quantile u. u = 0 is the highest noise level."""
        fraction = self.start + u * (self.stop - self.start)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return schedule.t((high + fraction * (low - high)) ** self.rho)

    def quantile(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the quantile u of a time, in [0, 1]."""
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = (schedule.sigma(t) / schedule.alpha(t)) ** (1 / self.rho)
        return _share((high - root) / (high - low), self.start, self.stop)


class LogNormal(Settings):
    """Noise levels with log(sigma/alpha) ~ N(mean, std^2): those of EDM's training and of SiD's fake
    score."""

    name: Literal["lognormal"] = "lognormal"
    mean: float = -1.2
    """Mean of log(sigma/alpha), a natural logarithm. A larger one trains at higher noise levels. The default
    is EDM's."""
    std: float = Field(1.2, gt=0)
    """Standard deviation of log(sigma/alpha). A larger one covers a wider range of noise levels. The default
    is EDM's."""

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the time at each quantile u. u = 0 is the lowest noise level."""
        import torch

        return schedule.t((self.mean + self.std * torch.special.ndtri(u)).exp())

    def quantile(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the quantile u of a time, in (0, 1]: no level has a quantile of 0."""
        import torch

        normal = ((schedule.sigma(t) / schedule.alpha(t)).log() - self.mean) / self.std
        below: Tensor = torch.special.ndtr(normal)
        return below.clamp_min(torch.finfo(t.dtype).tiny)


class LogitNormal(Settings):
    """Times of rectified flow with log(t / (1 - t)) ~ N(mean, std^2), as in the training of SD 3 (Esser et
    al. 2024). Since t / (1 - t) is sigma/alpha, this is `lognormal` with a shift."""

    name: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    """Mean of log(t / (1 - t)). A larger one trains at higher noise levels. The default is SD 3's."""
    std: float = Field(1.0, gt=0)
    """Standard deviation of log(t / (1 - t)). A larger one covers a wider range. The default is SD 3's."""
    shift: Shift = 1.0
    """Factor on sigma/alpha of every level: above 1 for more noise, as higher resolutions need. `scheduler`
    takes that of the teacher's scheduler at the resolution of the run, in flow matching."""

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the time at each quantile u. u = 0 is the lowest noise level."""
        return self._of(schedule).t(u, schedule)

    def quantile(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the quantile u of a time, in (0, 1]: no level has a quantile of 0."""
        return self._of(schedule).quantile(t, schedule)

    def _of(self, schedule: NoiseSchedule) -> LogNormal:
        """Return the distribution of sigma/alpha."""
        return LogNormal(mean=self.mean + math.log(shift_of(schedule, self.shift)), std=self.std)


class Uniform(Settings):
    """Noise levels uniform in the schedule's time: those of DMD, of f-distill on Stable Diffusion and of
    SiD-LSG."""

    name: Literal["uniform"] = "uniform"
    start: float = Field(0.0, ge=0, le=1)
    """Minimum time, as a fraction of the schedule's last. A larger one leaves out the lowest noise levels."""
    stop: float = Field(1.0, ge=0, le=1)
    """Maximum time, as a fraction of the schedule's last. A smaller one leaves out the highest noise
    levels."""
    shift: Shift = 1.0
    """Factor on sigma/alpha of every level: above 1 for more noise, as higher resolutions need. `scheduler`
    takes that of the teacher's scheduler at the resolution of the run, in flow matching."""

    @model_validator(mode="after")
    def _check_range(self) -> Uniform:
        check_order("start", self.start, "stop", self.stop)
        return self

    def t(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the time at each quantile u. u = 0 is the lowest noise level."""
        t = _last_time(schedule) * (self.start + u * (self.stop - self.start))
        shift = shift_of(schedule, self.shift)
        return t if shift == 1 else schedule.shifted(t, shift)

    def quantile(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the quantile u of a time, in [0, 1]."""
        shift = shift_of(schedule, self.shift)
        even = t if shift == 1 else schedule.shifted(t, 1 / shift)
        return _share(even / _last_time(schedule), self.start, self.stop)


def shift_of(schedule: NoiseSchedule, shift: Shift) -> float:
    """Return the factor on sigma/alpha that a setting means for this schedule."""
    from distill.diffusion.schedules import Flow

    if shift != "scheduler":
        return shift
    if not isinstance(schedule, Flow):
        raise UserError(
            "noise_levels.shift: scheduler needs flow matching; "
            f"expected a number for {type(schedule).__name__}"
        )
    return schedule.shift


NoiseLevels = Annotated[Karras | LogNormal | LogitNormal | Uniform, Field(discriminator="name")]


def t_below(levels: NoiseLevels, u: Tensor, limit: float | Tensor, schedule: NoiseSchedule) -> Tensor:
    """Return the time at each quantile u of the levels up to the time `limit` alone.

    It is the limit itself if all levels are above it. Samples may have limits of their own, (b,); an infinite
    one is none.
    """
    limits = u.new_full((), limit) if isinstance(limit, float) else limit
    unlimited = levels.t(u, schedule)
    is_free = limits.isinf()
    limits = limits.where(~is_free, unlimited)  # any time that the schedule has
    at_limit = levels.quantile(limits, schedule)
    if isinstance(levels, Karras):  # u = 0 is the highest level
        within = at_limit + u * (1 - at_limit)
    else:
        within = u * at_limit
    return unlimited.where(is_free, levels.t(within, schedule).minimum(limits))


class Annealing(Settings):
    """A change of the noise levels in the course of a run, from high levels for shape to low ones for detail.

    Between the two steps every number of the distribution moves linearly.
    """

    noise_levels: NoiseLevels
    """Distribution of the noise levels at the end, of the same kind as at the start."""
    start_step: int = Field(0, ge=0)
    """Step of the run at which the change begins."""
    end_step: int = Field(ge=1)
    """Step of the run at which it ends. The step after `start_step` switches at once; VSD does so at 5000."""

    @model_validator(mode="after")
    def _check_steps(self) -> Annealing:
        if self.end_step <= self.start_step:
            raise ValueError(
                f"end_step: is {self.end_step}; expected more than start_step, {self.start_step}"
            )
        return self

    def check_shift(self, first: NoiseLevels) -> None:
        """Raise ValueError if a shift would move between a number and that of a scheduler."""
        shift, last = (getattr(levels, "shift", None) for levels in (first, self.noise_levels))
        if shift != last and "scheduler" in (shift, last):
            expected = "scheduler" if shift == "scheduler" else "a number"
            raise ValueError(f"annealing.noise_levels.shift: is {last}; expected {expected} as before")

    def at(self, step: int, first: NoiseLevels) -> NoiseLevels:
        """Return the noise levels at a step of a run that begins with others of the same kind."""
        fraction = min(1.0, max(0.0, (step - self.start_step) / (self.end_step - self.start_step)))
        if fraction in (0.0, 1.0):
            return self.noise_levels if fraction else first
        numbers = {
            name: value + fraction * (getattr(self.noise_levels, name) - value)
            for name, value in first.model_dump(exclude={"name"}).items()
            if value != getattr(self.noise_levels, name)
        }
        return first.model_copy(update=numbers)


def _last_time(schedule: NoiseSchedule) -> float:
    """Return a schedule's last time; uniform levels need one."""
    if schedule.t_max is None:
        raise UserError(
            "noise_levels: uniform needs a schedule that ends; "
            f"expected karras or lognormal for {type(schedule).__name__}"
        )
    return schedule.t_max


def _share(value: Tensor, start: float, stop: float) -> Tensor:
    """Return how far a value lies between two others, in [0, 1]."""
    return ((value - start) / max(stop - start, 1e-12)).clamp(0, 1)


def check_order(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raise ValueError if the lower end of a range is above the upper one."""
    if low > high:
        raise ValueError(f"{low_name}: {low:g} is above {high_name}, {high:g}; expected at most as much")
