"""Subsets of images, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def shuffled(count: int, seed: int = 0) -> Int64[Tensor, " n"]:
    """Return 0..count-1 in a random order."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(count))


def evenly(total: int, count: int) -> list[int]:
    """Choose `count` of 0..total-1, evenly spaced.

    The first images of a folder or a file may all be of one class.
    """
    return [place * total // count for place in range(count)]


def resampled(count: int, seed: int) -> Int64[Tensor, " n"]:
    """Draw `count` of 0..count-1 with replacement."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, count, count))


def some(features: Tensor, most: int) -> Tensor:
    """Return all rows, or `most` random ones if there are more."""
    return features if len(features) <= most else features[shuffled(len(features))[:most]]
