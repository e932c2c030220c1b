"""Weights in reduced precision: networks that compute in bfloat16 without casting weights in each pass.

Noise levels, preconditionings, frequencies and outputs stay float32. Activations are cast once, at
the entry of a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.types import ImageModel

REDUCED = (torch.bfloat16, torch.float16)


def check_reduced_weights(network: ImageModel) -> None:
    """Refuse a network that cannot compute with its weights in bfloat16."""
    if not network.takes_reduced_weights:
        kind = type(network).__name__
        raise UserError(
            f"precision: bf16-true holds weights in bfloat16, in which {kind} cannot compute; "
            "expected bf16 or fp16"
        )


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast a network's parameters to `dtype`, and its buffers to float32.

    Buffers hold frequencies; rounded, they would stand for other positions and times. Networks that share
    parameters with this one share the cast ones.
    """
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32)


def as_weights(x: Tensor, weight: Tensor) -> Tensor:
    """Cast activations to the type of the weight that reads them, if that is reduced; else leave them."""
    return x.to(weight.dtype) if weight.dtype in REDUCED else x
