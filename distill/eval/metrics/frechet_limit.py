"""Limit of a Fréchet distance for infinitely many images, and its spread over random draws of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import ProgressBar
from distill.eval.features import checked
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.drawn_statistics import statistics_of_draws
from distill.eval.metrics.subsets import resampled, shuffled

POINTS = 15
"""Numbers of images at which the distance is computed for the limit."""
SHARE = 0.1
"""The smallest of these numbers is this share of all images; the largest is all of them."""
MIN_PER_DIMENSION = 2
"""Minimum number of images for each dimension of the features: with fewer, the bias is not linear in 1/n."""
CONFIDENCE = 1.96
"""Standard deviations to either side of a 95 % interval."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """The distance for infinitely many images and the standard error of the fitted line there.

    `counts` and `distances` are the points through which the line was fitted.
    """

    value: float
    deviation: float
    counts: list[int]
    distances: list[float]


def frechet_limit(features: Float[Tensor, "n d"], real: Statistics, progress: bool = False) -> Limit:
    """Compute FD∞ (Chong and Forsyth 2020, "Effectively unbiased FID").

    The bias of the distance is linear in 1/n: a line is fitted to the distances at 15 evenly spaced numbers
    of images, as published, and its value at 1/n = 0 has no bias. The statistics of the real images do not
    change, so the bias due to their own finite number stays. Raises UserError with too few images for a line.
    """
    features = checked(features)
    total = len(features)
    least = max(round(SHARE * total), MIN_PER_DIMENSION * features.shape[1])
    needed = max(2 * least, POINTS)
    if total < needed:
        raise UserError(
            f"{total} images; expected at least {needed} for the limit of a distance in "
            f"{features.shape[1]} dimensions"
        )
    counts = np.unique(np.linspace(least, total, POINTS).astype(int)).tolist()
    draws = [shuffled(total, seed=count)[:count].bincount(minlength=total) for count in counts]
    distances = _distances(features, draws, real, "limit of the distance" if progress else None)
    value, deviation = _value_at_zero(1 / np.array(counts), np.array(distances))
    return Limit(value, deviation, counts, distances)


def _distances(
    features: Float64[Tensor, "n d"],
    draws: Sequence[Int64[Tensor, " n"]],
    real: Statistics,
    title: str | None,
) -> list[float]:
    """Compute the distance of each draw of the images, given as weights; a title shows a progress bar."""
    distances = [0.0] * len(draws)
    with ProgressBar(title or "", len(draws), "draws", hidden=title is None) as bar:
        for number, made in statistics_of_draws(features, draws):
            distances[number] = frechet_distance(made, real)
            bar.update()
    return distances


def _value_at_zero(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Fit a line y = a + b x by least squares; return a and its standard error."""
    design = np.stack([np.ones_like(x), x], 1)
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ fit
    variance = np.square(residual).sum() / max(1, len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(fit[0]), float(np.sqrt(variance))


def bootstrap_deviation(
    features: Float[Tensor, "n d"], real: Statistics, replicates: int, progress: bool = False
) -> float:
    """Estimate the standard deviation of the distance over draws of n images by the bootstrap.

    Each replicate draws n of the given images with replacement; the real images do not change. Repeated
    images bias a replicate's distance upwards, so the replicates' spread is that of the distance, but their
    mean is not.
    """
    features = checked(features)
    total = len(features)
    draws = [resampled(total, seed).bincount(minlength=total) for seed in range(replicates)]
    values = _distances(features, draws, real, "bootstrap" if progress else None)
    return float(np.std(values, ddof=1))
