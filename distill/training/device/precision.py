"""The precision of a run's passes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from distill.networks.computation.precision import cast_weights, check_reduced_weights
from distill.types import ImageModel


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the type in which autocast computes matrix products; None computes in the weights' own."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute the passes and losses within the block in a run's precision.

    The context is torch's own. accelerate's would bring a gradient scaler of its own for fp16.
    """
    dtype = autocast_type(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def hold_weights(precision: str, networks: Iterable[nn.Module]) -> None:
    """Cast the weights of networks to bfloat16 if a run's precision is `bf16-true`.

    Optimisers and averages, which are built afterwards, hold what they need in float32.
    """
    if precision != "bf16-true":
        return
    for network in networks:
        if isinstance(network, ImageModel):
            check_reduced_weights(network)
        cast_weights(network, torch.bfloat16)
