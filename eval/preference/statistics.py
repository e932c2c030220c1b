"""Statistics of scores, prompt by prompt: prompts are drawn independently, the images of one prompt are not."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

QUANTILE = 1.959963984540054
"""Of the normal distribution, for two-sided intervals of 95 %."""


class Mean(NamedTuple):
    """A mean over prompts and its standard error, None of a single prompt."""

    mean: float
    standard_error: float | None


class WinRate(NamedTuple):
    """The share of pairs that are won, ties counting half, and the interval of 95 % around it."""

    rate: float
    low: float
    high: float


def mean_over_prompts(values: Float64[Tensor, "prompts images"]) -> Mean:
    """The mean of the prompts' means. Its standard error is that of these means, which is right however alike a prompt's images are."""
    means = values.mean(1)
    return Mean(means.mean().item(), (means.std() / len(means) ** 0.5).item() if len(means) > 1 else None)


def win_rate(values: Float64[Tensor, "prompts images"], others: Float64[Tensor, "prompts images"]) -> WinRate:
    """How often an image scores higher than the other of the same prompt and seed, with Wilson's interval for as many trials as there are prompts.

    That is the interval of a share where each prompt has one image and none ties. Ties, and the mean of several images, vary less than a coin does:
    then it is wider than it need be.
    """
    difference = values - others
    rate = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()
    return WinRate(rate, *wilson(rate, len(values)))


def wilson(rate: float, count: int, quantile: float = QUANTILE) -> tuple[float, float]:
    """Where a true share p may lie when `rate` was observed of `count` trials: |rate - p| <= quantile * sqrt(p (1 - p) / count) (Wilson 1927)."""
    spread = quantile**2 / count
    centre = (rate + spread / 2) / (1 + spread)
    reach = quantile * math.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)
