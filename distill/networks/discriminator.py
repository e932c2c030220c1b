"""Discriminators tell real images from student samples by another network's features at named depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.networks.computation.precision import as_weights
from distill.networks.layers import groups
from distill.types import Critic, Features


class Discriminator(Critic):
    """Features -> one logit per sample, (b,): after training, log p_t/q_t up to calibration.

    `reads` names the network whose features it takes, "teacher" (f-distill) or "fake" (DMD2, SiDA); these
    features depend on the noise level and the condition already. `channels` gives the channels at each depth.
    Each depth has a head, whose logits are averaged over positions; the result is the mean of the heads.
    """

    def __init__(self, reads: str, channels: dict[str, int], width: int) -> None:
        super().__init__()
        self.reads = reads
        self.heads = nn.ModuleDict({depth: head(count, width) for depth, count in channels.items()})

    @property
    def depths(self) -> Sequence[str]:
        return tuple(self.heads)

    def forward(self, features: Features) -> Float[Tensor, " b"]:
        logits = []
        layers: Any
        for depth, layers in self.heads.items():
            positions = layers(as_weights(features[depth], layers[0].weight))
            logits.append(_mean(positions.flatten(1)))
        return torch.stack(logits).mean(0)


class ChannelMean(Critic):
    """Averages the fake score's features over channels: one logit per position, (b, n). It has no parameters.

    The fake score itself learns to tell images apart by this mean, taken at the end of its encoder in SiDA
    and Uni-Instruct (Zhou et al. 2024, arXiv:2410.14919, and its code).
    """

    def __init__(self, depths: Sequence[str]) -> None:
        super().__init__()
        self.reads = "fake"
        self._depths = tuple(depths)

    @property
    def depths(self) -> Sequence[str]:
        return self._depths

    def forward(self, features: Features) -> Float[Tensor, "b n"]:
        return torch.cat([_mean(features[depth]).flatten(1) for depth in self._depths], dim=1)


def _mean(values: Tensor) -> Tensor:
    """Average over the second axis, in float32 if the values are of lower precision."""
    return values.mean(1, dtype=torch.promote_types(values.dtype, torch.float32))


def head(channels: int, width: int) -> nn.Sequential:
    """Build a head: two 3x3 convolutions, then a 1x1 convolution to a map of logits."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(groups(width), width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(groups(width), width),
        nn.SiLU(),
        nn.Conv2d(width, 1, 1),
    )
