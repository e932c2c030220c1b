"""Statistics of scores, prompt by prompt: prompts are independent draws, the images of one prompt are not."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

QUANTILE = 1.959963984540054
"""Quantile of the normal distribution for two-sided 95 % intervals."""


class Mean(NamedTuple):
    """A mean over prompts and its standard error, which is None for a single prompt."""

    mean: float
    standard_error: float | None


class WinRate(NamedTuple):
    """The share of pairs that are won, ties counting half, and its 95 % interval."""

    rate: float
    low: float
    high: float


def mean_over_prompts(values: Float64[Tensor, "prompts images"]) -> Mean:
    """Compute the mean of the prompts' means.

    The standard error is that of the prompts' means, so it is right however alike the images of a prompt are.
    """
    means = values.mean(1)
    error = (means.std() / len(means) ** 0.5).item() if len(means) > 1 else None
    return Mean(means.mean().item(), error)


def win_rate(values: Float64[Tensor, "prompts images"], others: Float64[Tensor, "prompts images"]) -> WinRate:
    """Compute how often an image scores higher than the other one of the same prompt and seed.

    The interval is Wilson's for as many trials as prompts. It is exact in that sense if each prompt has one
    image and none ties; ties and the mean of several images vary less than a coin does, and the interval is
    then too wide.
    """
    difference = values - others
    rate = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()
    return WinRate(rate, *wilson(rate, len(values)))


def wilson(rate: float, count: int, quantile: float = QUANTILE) -> tuple[float, float]:
    """Compute Wilson's interval (1927) of the true share p, when `rate` was observed in `count` trials.

    Its ends solve |rate - p| = quantile * sqrt(p (1 - p) / count).
    """
    spread = quantile**2 / count
    centre = (rate + spread / 2) / (1 + spread)
    reach = quantile * math.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)
