"""Subsets of images for statistics that need some: the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def shuffled(count: int, seed: int = 0) -> Int64[Tensor, " n"]:
    """0..count-1 in a random order."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(count))


def evenly(total: int, count: int) -> list[int]:
    """`count` of 0..total-1, as evenly spaced as they can be: the first images of a folder or a file may be of one class."""
    return [place * total // count for place in range(count)]


def resampled(count: int, seed: int) -> Int64[Tensor, " n"]:
    """As many of 0..count-1, drawn with replacement."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, count, count))


def some(features: Tensor, most: int) -> Tensor:
    """At most so many rows, at random."""
    return features if len(features) <= most else features[shuffled(len(features))[:most]]
