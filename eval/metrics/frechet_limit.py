"""How a Fréchet distance depends on the images that were drawn: its limit for infinitely many, and the spread of what is random."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from distill.config.errors import UserError
from eval.features import checked
from eval.frechet import Statistics, frechet_distance
from eval.metrics.subsets import resampled, shuffled

POINTS, SHARE = 15, 0.1
"""Numbers of images for the limit, from this share of all to all."""
MIN_PER_DIMENSION = 2
"""Images for each dimension of the features at the fewest: below, the bias is not yet linear in 1/n."""
CONFIDENCE = 1.96
"""Standard deviations to either side of a 95 % interval."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """The distance for infinitely many images, its standard error by the line's fit, and the points that the line was drawn through."""

    value: float
    deviation: float
    counts: list[int]
    distances: list[float]


def frechet_limit(features: Float[Tensor, "n d"], real: Statistics, progress: bool = False) -> Limit:
    """FD∞ (Chong and Forsyth 2020, "Effectively unbiased FID"): the distance is linear in 1/n; its value at 1/n = 0, where the bias is gone.

    As published, the line is drawn through 15 numbers of images that are evenly spaced.

    The statistics of the real images stay as they are, so what their own finite number adds stays too. Raises UserError where the images
    are too few for a line.
    """
    features, total = checked(features), len(features)
    least = max(round(SHARE * total), MIN_PER_DIMENSION * features.shape[1])
    if total < max(2 * least, POINTS):
        raise UserError(
            f"{total} images; expected at least {max(2 * least, POINTS)} for the limit of a distance in {features.shape[1]} dimensions"
        )
    counts = np.unique(np.linspace(least, total, POINTS).astype(int)).tolist()
    distances = [
        frechet_distance(Statistics.of(features[shuffled(total, seed=count)[:count]]), real)
        for count in tqdm(counts, desc="limit of the distance", disable=not progress, leave=False)
    ]
    inverse = 1 / np.array(counts)
    design = np.stack([np.ones_like(inverse), inverse], 1)
    fit, *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    residual = np.array(distances) - design @ fit
    variance = np.square(residual).sum() / max(1, len(counts) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Limit(float(fit[0]), float(np.sqrt(variance)), counts, distances)


def bootstrap_deviation(
    features: Float[Tensor, "n d"], real: Statistics, replicates: int, progress: bool = False
) -> float:
    """Standard deviation of the distance over draws of n images, from n drawn again out of these; the real images stay.

    A replicate repeats images, which biases the distance upwards once more: its spread is that of the distance, its mean is not.
    """
    features = checked(features)
    rounds = tqdm(range(replicates), desc="bootstrap", disable=not progress, leave=False)
    values = [
        frechet_distance(Statistics.of(features[resampled(len(features), seed)]), real) for seed in rounds
    ]
    return float(np.std(values, ddof=1))
