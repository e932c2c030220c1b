"""The teacher's many-step sampler with its settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from distill.config.settings import Settings
from distill.diffusion.noise_levels import check_order

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import Condition, Denoiser


class Heun(Settings):
    """EDM's sampler, Heun's second-order method with optional churn (Karras et al. 2022, algorithms 1, 2)."""

    steps: int = Field(18, ge=1)
    """Number of steps. Each takes two network evaluations, the last takes one: EDM's 18 steps take 35. More
    steps follow the teacher's ODE more closely and cost proportionally more."""
    sigma_min: float = Field(0.002, gt=0)
    """Last noise level before zero, as sigma/alpha. The default is EDM's."""
    sigma_max: float = Field(80.0, gt=0)
    """First noise level, as sigma/alpha. The default is EDM's."""
    rho: float = Field(7.0, gt=0)
    """Curvature of the grid of noise levels: a larger one puts more steps near `sigma_min`. The default is
    EDM's."""
    churn: float = Field(0.0, ge=0)
    """EDM's S_churn: each step first adds noise that raises its noise level by a factor of 1 + churn/steps,
    at most sqrt(2). 0 adds none, and the image is a deterministic function of its first noise."""
    churn_min: float = Field(0.0, ge=0)
    """Minimum noise level, as sigma/alpha, at which churn adds noise."""
    churn_max: float = Field(1e9, gt=0)
    """Maximum noise level, as sigma/alpha, at which churn adds noise. The default is no limit."""
    churn_noise: float = Field(1.0, gt=0)
    """EDM's S_noise: standard deviation of the noise that churn adds, relative to what its noise level asks
    for."""
    guidance: float = 1.0
    """Classifier-free guidance scale. 1 is no guidance, and 0 leaves the condition out; any other scale
    doubles the cost of an evaluation."""

    @model_validator(mode="after")
    def _check_range(self) -> Heun:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self

    @property
    def evaluations(self) -> int:
        """Network evaluations per image."""
        return 2 * self.steps - 1

    def grid(self, max_noise_to_signal: float = math.inf, min_noise_to_signal: float = 0.0) -> list[float]:
        """Return the steps + 1 noise levels, as sigma/alpha: from sigma_max to sigma_min, then 0.

        They stay between the minimum and the maximum of a network.
        """
        high = min(self.sigma_max, max_noise_to_signal) ** (1 / self.rho)
        low = max(self.sigma_min, min_noise_to_signal) ** (1 / self.rho)
        fractions = [i / max(1, self.steps - 1) for i in range(self.steps)]
        return [(high + f * (low - high)) ** self.rho for f in fractions] + [0.0]

    def solve(
        self,
        teacher: Denoiser,
        z: Tensor,
        cond: Condition,
        fresh_noise: Callable[[int], Tensor],
        anchor: int | None = None,
    ) -> Tensor:
        """Solve the teacher's probability-flow ODE from unit noise z (b, ...), and return x_0 (b, ...).

        The ODE is solved in the coordinates x_t/alpha. `fresh_noise(step)` returns the unit noise of churn,
        (b, ...). A network with discrete noise levels is evaluated at those nearest to the sampler's, as in
        EDM's sampler.

        With `anchor` it is solved for as many steps, from level L_0 to level L_k, and the straight line
        through both ends goes on to no noise: x_0 = (x_k - L_k z) L_0 / (L_0 - L_k). If L_0 is infinite, that
        is z - v with the velocity v = (z - x_{t_k}) / (1 - t_k) of a flow, the target of DP-DMD's first step.
        """
        min_noise_to_signal, max_noise_to_signal = teacher.level_range()
        levels = self.grid(max_noise_to_signal, min_noise_to_signal)
        levels = [teacher.nearest_level(level) for level in levels[:-1]] + [0.0]
        x = z * levels[0]
        for step, (level, following) in enumerate(itertools.pairwise(levels)):
            if self.churn > 0 and self.churn_min <= level <= self.churn_max:
                raised = teacher.nearest_level(level * (1 + min(self.churn / self.steps, 2**0.5 - 1)))
                x = x + (raised**2 - level**2) ** 0.5 * self.churn_noise * fresh_noise(step)
                level = raised
            slope = self._slope(teacher, x, level, cond)
            estimate = x + (following - level) * slope
            if following > 0:
                slope_at_estimate = self._slope(teacher, estimate, following, cond)
                x = x + (following - level) * (slope + slope_at_estimate) / 2
            else:
                x = estimate
            if step + 1 == anchor:
                return (x - following * z) * (levels[0] / (levels[0] - following))
        return x

    def _slope(self, teacher: Denoiser, x: Tensor, level: float, cond: Condition) -> Tensor:
        """Return the derivative of x = x_t/alpha with respect to the noise level sigma/alpha."""
        from distill.diffusion.guidance import guided
        from distill.types import expand_like

        t = teacher.schedule.t(x.new_full((len(x),), level))
        x_t = x * expand_like(teacher.schedule.alpha(t), x)
        return (x - guided(teacher, x_t, t, cond, self.guidance).x0) / level
