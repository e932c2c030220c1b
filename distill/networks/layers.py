"""Layers that several networks share."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


def label_rows(
    label: Int64[Tensor, " b"] | None, t: Float[Tensor, " b"], label_count: int
) -> Int64[Tensor, " b"]:
    """Return each label's row in a table of label_count + 1 embeddings; the last row stands for no label."""
    if label is None:
        return torch.full(t.shape, label_count, device=t.device)
    return label.remainder(label_count + 1)


class FourierFeatures(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies from 1 to 100."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(0, 2, width // 2), persistent=False)

    def forward(self, x: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        angles = x[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def groups(channels: int) -> int:
    """Return the number of groups for normalisation: at most 32, of at least four channels each."""
    return math.gcd(channels, min(32, max(1, channels // 4)))


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution to zero, so that a residual branch which ends in it starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
