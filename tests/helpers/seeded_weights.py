"""Weights and inputs that follow from names alone, so that an oracle file needs to hold outputs only."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that are the same wherever the name and the shape are."""
    return torch.from_numpy(
        np.asarray(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape), dtype=np.float32)
    )


def seeded_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of the same names and shapes: matrices of unit gain, norms and gains about one, frequencies as wide as they are at the start."""
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
    return 0.1 * values + (
        1.0 if ("norm" in name and name.endswith("weight")) or name.endswith("gain") else 0.0
    )
