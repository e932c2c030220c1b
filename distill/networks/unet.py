"""A class-conditional U-Net with EDM preconditioning: our own network for images up to 64x64.

Residual blocks are conditioned on noise level and label by FiLM (a scale and a shift after the second
normalisation); attention is optional per resolution. The preconditioning is that of Karras et al. 2022, table
1, so the network predicts the clean image at every noise level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.diffusion.schedules import EDM
from distill.networks.computation.activation_checkpointing import CheckpointedBlock
from distill.networks.computation.precision import as_weights
from distill.networks.layers import (
    FourierFeatures,
    attend,
    embed_noise,
    fusible,
    groups,
    label_rows,
    zero_init,
)
from distill.networks.sizes import UNetSizes, depth_channels, split_sizes
from distill.types import Condition, Denoiser, Features, expand_like


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The images of a `UNet`, (channels, resolution, resolution), its labels, and its sizes.

    `label_count` 0 means unconditional.
    """

    resolution: int
    channels: int
    label_count: int = 0
    sizes: UNetSizes = dataclasses.field(default_factory=UNetSizes)

    def __post_init__(self) -> None:
        count = len(self.sizes.multipliers)
        coarsest = 2 ** (count - 1)
        if self.resolution % coarsest:
            raise ValueError(
                f"resolution {self.resolution} is not divisible by {coarsest}, which {count} levels need"
            )
        levels = [resolution for resolution, _ in self.levels]
        for resolution in self.sizes.attention:
            if resolution not in levels:
                known = ", ".join(map(str, levels))
                raise ValueError(f"attention: {resolution} is no level; expected one of {known}")

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Resolution and channels of each level, finest first."""
        return [
            (self.resolution >> level, self.sizes.width * multiplier)
            for level, multiplier in enumerate(self.sizes.multipliers)
        ]


class UNet(Denoiser):
    """A `Denoiser` that predicts x_0 from x_t at t = sigma (variance-exploding).

    Its depths are the resolutions of the encoder's levels, such as "8" and "4", and "bottleneck".
    """

    takes_reduced_weights = True

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = EDM()
        self.image_shape = (config.channels, config.resolution, config.resolution)
        self.label_count = config.label_count
        width, embedding = config.sizes.width, 4 * config.sizes.width
        self.noise_embedding = nn.Sequential(
            FourierFeatures(width),
            nn.Linear(width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        # One more row than there are labels: the last is "no label".
        self.label_embedding = nn.Embedding(config.label_count + 1, embedding)
        nn.init.zeros_(self.label_embedding.weight)

        self.stem = nn.Conv2d(config.channels, width, 3, padding=1)
        self.encoder, skips = build_encoder(config, embedding)
        deepest = skips[-1]
        self.bottleneck = ResidualBlock(
            deepest, deepest, embedding, config.sizes.dropout, attention=bool(config.sizes.attention)
        )
        self.decoder = build_decoder(config, embedding, skips)
        finest = width * config.sizes.multipliers[0]
        self.head = nn.Sequential(
            nn.GroupNorm(groups(finest), finest),
            nn.SiLU(),
            zero_init(nn.Conv2d(finest, config.channels, 3, padding=1)),
        )

    def describe(self) -> dict[str, Any]:
        """Return its sizes as plain data."""
        images = {"resolution": self.config.resolution, "channels": self.config.channels}
        return {**images, "label_count": self.config.label_count, **self.config.sizes.model_dump()}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> UNet:
        """Build the network from what `describe` returned."""
        own, sizes = split_sizes(description, UNetSizes)
        return cls(UNetConfig(**own, sizes=sizes))

    @property
    def depth_channels(self) -> dict[str, int]:
        return depth_channels(self.config.levels)

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, Features]: ...

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Condition,
        depths: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0 from x_t at noise level t = sigma; with `depths`, also return the features there."""
        sigma = expand_like(t, x_t)
        sigma_data = self.config.sizes.sigma_data
        scale = (sigma**2 + sigma_data**2).rsqrt()
        hidden, skips, embedding, features = self._encode(x_t * scale, t, cond, depths)
        output = self._decode(hidden, skips, embedding)
        x0 = (sigma_data * scale) ** 2 * x_t + sigma * sigma_data * scale * output
        return (x0, features) if depths else x0

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return EDM's weight of the squared error of x_0, (sigma^2 + sigma_data^2)/(sigma sigma_data)^2.

        It makes the loss that of a target of unit variance.
        """
        return t**-2 + self.config.sizes.sigma_data**-2

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Return the features at `depths` only, at half the cost of a prediction."""
        scale = (t**2 + self.config.sizes.sigma_data**2).rsqrt()
        return self._encode(x_t * expand_like(scale, x_t), t, cond, depths)[3]

    def _embed(self, t: Tensor, label: Int64[Tensor, " b"] | None) -> Tensor:
        rows = label_rows(label, t, self.config.label_count)
        return F.silu(embed_noise(self.noise_embedding, t.log() / 4) + self.label_embedding(rows))

    def _encode(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, list[Tensor], Tensor, Features]:
        """Return the bottleneck, the skip connections, the embedding of the condition, and the features."""
        embedding = self._embed(t, cond.label)
        hidden = self.stem(as_weights(x, self.stem.weight))
        skips = [hidden]
        features: Features = {}
        for (resolution, _), stage in zip(self.config.levels, self.encoder, strict=True):
            for layer in stage.children():
                hidden = layer(hidden, embedding) if isinstance(layer, ResidualBlock) else layer(hidden)
                skips.append(hidden)
            features[str(resolution)] = hidden
        hidden = self.bottleneck(hidden, embedding)
        features["bottleneck"] = hidden
        return hidden, skips, embedding, {depth: features[depth] for depth in depths}

    def _decode(self, hidden: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        skips = list(skips)
        for stage in self.decoder:
            for layer in stage.children():
                if isinstance(layer, ResidualBlock):
                    hidden = layer(torch.cat([hidden, skips.pop()], dim=1), embedding)
                else:
                    hidden = layer(hidden)
        return self.head(hidden)


def build_encoder(config: UNetConfig, embedding: int) -> tuple[nn.ModuleList, list[int]]:
    """Build one stage per level, finest first, and list the channels of the skip connections, stem first."""
    stages = nn.ModuleList()
    channels = config.sizes.width
    skips = [channels]
    for resolution, width in config.levels:
        stage = nn.ModuleList()
        if resolution != config.resolution:
            stage.append(nn.AvgPool2d(2))
            skips.append(channels)
        for _ in range(config.sizes.blocks):
            attends = resolution in config.sizes.attention
            stage.append(ResidualBlock(channels, width, embedding, config.sizes.dropout, attends))
            channels = width
            skips.append(channels)
        stages.append(stage)
    return stages, skips


def build_decoder(config: UNetConfig, embedding: int, skips: list[int]) -> nn.ModuleList:
    """Build one stage per level, coarsest first. Each block takes one skip connection, the last one first."""
    skips = list(skips)
    stages = nn.ModuleList()
    channels = skips[-1]
    for resolution, width in reversed(config.levels):
        stage = nn.ModuleList()
        for _ in range(config.sizes.blocks + 1):
            attends = resolution in config.sizes.attention
            stage.append(
                ResidualBlock(channels + skips.pop(), width, embedding, config.sizes.dropout, attends)
            )
            channels = width
        if resolution != config.resolution:
            stage.append(nn.Upsample(scale_factor=2.0))
        stages.append(stage)
    return stages


class ResidualBlock(CheckpointedBlock):
    """Two 3x3 convolutions with FiLM between them, a residual path, and optional self-attention after it."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups(inputs), inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(groups(outputs), outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = SelfAttention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(torch.addcmul(shift, self.norm_out(hidden), scale + 1))
        hidden = self.conv_out(self.dropout(hidden))
        return self.attention((self.skip(x) + hidden) * math.sqrt(0.5))


class SelfAttention(nn.Module):
    """Self-attention over pixels, 32 channels per head, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32)
        self.norm = nn.GroupNorm(groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        return x + self.out(attend(fusible(qkv.permute(1, 0, 2, 4, 3)), x))
