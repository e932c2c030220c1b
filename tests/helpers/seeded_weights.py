"""Weights and inputs that depend on their names alone, so that an oracle file needs to hold only outputs."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers that depend on the name and the shape alone."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(np.asarray(random.standard_normal(shape), dtype=np.float32))


def seeded_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the same names and shapes.

    Matrices have unit gain, norms and gains are about one, and frequencies are as wide as those of a new
    network.
    """
    return {
        name: value if name.endswith("resample_filter") else _seeded(name, tuple(value.shape))
        for name, value in state.items()
    }


def _seeded(name: str, shape: tuple[int, ...]) -> Tensor:
    values = normal(name, shape)
    if name.endswith(("freqs", "phases")):
        return 6 * values
    if len(shape) > 1:
        return values / math.sqrt(math.prod(shape[1:]))
    is_gain = ("norm" in name and name.endswith("weight")) or name.endswith("gain")
    return 0.1 * values + (1.0 if is_gain else 0.0)
