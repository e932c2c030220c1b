"""Layers that several networks share."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.computation.precision import as_weights


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


def embed_noise(layers: nn.Sequential, level: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
    """Embed a noise level by `FourierFeatures`, in the level's precision, and the layers after them."""
    features = layers[0](level)
    for layer in list(layers)[1:]:
        features = layer(as_weights(features, layer.weight) if isinstance(layer, nn.Linear) else features)
    return features


def attend(qkv: Float[Tensor, "3 b heads n d"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Compute self-attention over the n positions of x from queries, keys and values; c is heads times d.

    The result has the memory format of x, whatever the format of the kernel's output.
    """
    q, k, v = qkv.unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
    return attended.contiguous(memory_format=memory_format(x))


def fusible(qkv: Float[Tensor, "3 b heads n d"]) -> Float[Tensor, "3 b heads n d"]:
    """Return a tensor whose last axis is contiguous, without which no fused kernel of attention runs."""
    return qkv if qkv.stride(-1) == 1 else qkv.contiguous()


def memory_format(x: Float[Tensor, "b c h w"]) -> torch.memory_format:
    """Return the memory format of a batch of images: channels last, or contiguous."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def groups(channels: int) -> int:
    """Return the number of groups for normalisation: at most 32, of at least four channels each."""
    return math.gcd(channels, min(32, max(1, channels // 4)))


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution to zero, so that a residual branch which ends in it starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
