"""Layers of EDM's U-Nets (Karras et al. 2022, appendix F.3).

Attributes have the published names, so that published weights load unchanged.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.computation.activation_checkpointing import CheckpointedBlock
from distill.networks.edm.backbone import LayerSpec
from distill.networks.layers import attend, fusible


class PositionalAngles(nn.Module):
    """Multiplies c_noise by `count` frequencies that fall geometrically from 1 to 1/10000 (DDPM++, ADM).

    With `endpoint` the last frequency is 1/10000; otherwise the one after it would be.
    """

    def __init__(self, count: int, endpoint: bool) -> None:
        super().__init__()
        self.count, self.endpoint = count, endpoint

    def forward(self, noise: Float[Tensor, " b"]) -> Float[Tensor, "b count"]:
        index = torch.arange(self.count, dtype=noise.dtype, device=noise.device)
        exponents = index / (self.count - self.endpoint)
        return noise[:, None] * (1 / 10000) ** exponents


class FourierAngles(nn.Module):
    """Multiplies c_noise by fixed random frequencies (NCSN++)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", 16 * torch.randn(count))

    def forward(self, noise: Float[Tensor, " b"]) -> Float[Tensor, "b count"]:
        return noise[:, None] * (2 * math.pi * self.freqs)


class Resample(nn.Module):
    """Halves the resolution, or with `up` doubles it, by a separable filter."""

    def __init__(self, taps: tuple[int, ...], up: bool) -> None:
        super().__init__()
        self.up = up
        self.padding = (len(taps) - 1) // 2
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resample_filter, self.up, self.padding)


class ResampledConv(nn.Conv2d):
    """A convolution that also halves the resolution, or with `up` doubles it.

    It filters first. With `filter_last` it convolves first, on a wider padding, and filters without one, as
    the pyramid of NCSN++ does.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        taps: tuple[int, ...],
        up: bool,
        filter_last: bool = False,
    ) -> None:
        padding = (len(taps) - 1) // 2
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 + padding * filter_last)
        self.up, self.filter_last, self.filter_padding = up, filter_last, padding
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Tensor) -> Tensor:
        if self.filter_last:
            return resample(super().forward(x), self.resample_filter, self.up, 0)
        return super().forward(resample(x, self.resample_filter, self.up, self.filter_padding))


def separable(taps: tuple[int, ...]) -> Float[Tensor, "1 1 k k"]:
    """Return the outer product of the taps with themselves, scaled to a sum of one."""
    row = torch.tensor(taps, dtype=torch.float32)
    return (row[:, None] * row)[None, None] / row.sum().square()


def resample(x: Float[Tensor, "b c h w"], kernel: Float[Tensor, "1 1 k k"], up: bool, padding: int) -> Tensor:
    """Filter each channel by itself with stride two, or with `up` by the transposed filter."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    if up:
        return F.conv_transpose2d(x, 4 * weight, groups=channels, stride=2, padding=padding)
    return F.conv2d(x, weight, groups=channels, stride=2, padding=padding)


class Block(CheckpointedBlock):
    """Two 3x3 convolutions with the condition between them, a residual path, and attention of `heads` heads.

    The condition is a shift before the second normalisation, or with `scales` a scale and a shift after it.
    `residual_scale` multiplies each sum. With `projects`, every residual path that changes the resolution has
    a 1x1 convolution. `eps` is that of the normalisations.
    """

    def __init__(
        self,
        spec: LayerSpec,
        embedding: int,
        *,
        heads: int,
        dropout: float,
        taps: tuple[int, ...],
        scales: bool,
        projects: bool,
        residual_scale: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.heads, self.scales, self.residual_scale = heads, scales, residual_scale
        inputs, outputs = spec.inputs, spec.outputs
        change = spec.kind if spec.kind in ("up", "down") else None
        self.norm0 = group_norm(inputs, eps)
        self.conv0 = convolution(inputs, outputs, 3, taps, change)
        self.affine = nn.Linear(embedding, outputs * (2 if scales else 1))
        self.norm1 = group_norm(outputs, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or (change and projects):
            self.skip = convolution(inputs, outputs, 1, taps, change)
        elif change:
            self.skip = Resample(taps, change == "up")
        if heads:
            self.norm2 = group_norm(outputs, eps)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Tensor:
        hidden = self.conv0(F.silu(self.norm0(x)))
        condition = self.affine(embedding)[:, :, None, None]
        if self.scales:
            scale, shift = condition.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm1(hidden), scale + 1)
        else:
            hidden = self.norm1(hidden + condition)
        hidden = self.conv1(self.dropout(F.silu(hidden)))
        hidden = (hidden + self.skip(x)) * self.residual_scale
        if self.heads:
            attended = attend(split_heads(self.qkv(self.norm2(hidden)), self.heads), hidden)
            hidden = (hidden + self.proj(attended)) * self.residual_scale
        return hidden


def convolution(
    inputs: int, outputs: int, kernel: int, taps: tuple[int, ...], change: str | None
) -> nn.Conv2d:
    """Build a convolution; `change`, "up" or "down", changes the resolution too."""
    if change is None:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return ResampledConv(inputs, outputs, kernel, taps, change == "up")


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


def split_heads(qkv: Float[Tensor, "b c h w"], heads: int) -> Float[Tensor, "3 b heads n d"]:
    """Split the output of a qkv layer, which published weights order by head, channel, and then q, k, v."""
    parts = qkv.reshape(len(qkv), heads, -1, 3, qkv.shape[2] * qkv.shape[3])
    return fusible(parts.permute(3, 0, 1, 4, 2))
