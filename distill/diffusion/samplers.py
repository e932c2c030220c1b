"""Settings of the teacher's many-step sampler; `distill.diffusion.sampling` runs it."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from distill.config.settings import Settings
from distill.diffusion.noise_levels import check_order


class Heun(Settings):
    """EDM's sampler (Karras et al. 2022, algorithms 1 and 2): Heun's second-order method, with stochastic churn if asked for."""

    steps: int = Field(18, ge=1)
    """Steps, each of two evaluations but the last: 18 steps are 35 evaluations."""
    sigma_min: float = Field(0.002, gt=0)
    """Last noise level before zero (sigma/alpha)."""
    sigma_max: float = Field(80.0, gt=0)
    """First noise level (sigma/alpha)."""
    rho: float = Field(7.0, gt=0)
    """Curvature of the grid of noise levels."""
    churn: float = Field(0.0, ge=0)
    """S_churn: how much fresh noise is added, 0 for the deterministic sampler."""
    churn_min: float = Field(0.0, ge=0)
    """Lowest noise level at which noise is added."""
    churn_max: float = Field(1e9, gt=0)
    """Highest noise level at which noise is added."""
    churn_noise: float = Field(1.0, gt=0)
    """S_noise: standard deviation of the added noise."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, which doubles the cost of an evaluation; 1 is none."""

    @model_validator(mode="after")
    def _falls(self) -> Heun:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self

    @property
    def evaluations(self) -> int:
        """Network evaluations per image."""
        return 2 * self.steps - 1

    def grid(self, max_noise_to_signal: float = math.inf, quietest: float = 0.0) -> list[float]:
        """Noise levels from sigma_max to sigma_min, then 0; steps + 1 of them. Those of a network that has none so high or so low end at its own."""
        high, low = (
            min(self.sigma_max, max_noise_to_signal) ** (1 / self.rho),
            max(self.sigma_min, quietest) ** (1 / self.rho),
        )
        fractions = [i / max(1, self.steps - 1) for i in range(self.steps)]
        return [(high + f * (low - high)) ** self.rho for f in fractions] + [0.0]
