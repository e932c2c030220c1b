"""Constant tensors, made once for each device: a copy from the host would make the device wait."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return values as a tensor, (n,), of the type and device of another one. It must not be changed."""
    return _constant(values, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not be used with a gradient later
        return torch.tensor(values, dtype=dtype, device=device)
