"""A class-conditional U-Net with EDM preconditioning: our own teacher, fake score and generator for images up to 64x64.

Residual blocks are conditioned on noise level and label by FiLM (a scale and a shift after the second normalisation); attention is optional
per resolution. The preconditioning is that of Karras et al. 2022, table 1, so the network predicts the clean image at every noise level.
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
from distill.networks.activation_checkpointing import CheckpointedBlock
from distill.networks.layers import FourierFeatures, groups, label_rows, zero_init
from distill.types import Condition, Denoiser, Features, expand_like


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a `UNet`. `multipliers` has one entry per resolution, halving each time; `label_count` 0 means unconditional."""

    resolution: int
    channels: int
    label_count: int = 0
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    dropout: float = 0.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        coarsest = 2 ** (len(self.multipliers) - 1)
        if self.resolution % coarsest:
            raise ValueError(
                f"resolution {self.resolution} is not divisible by {coarsest}, which {len(self.multipliers)} levels need"
            )
        levels = [self.resolution >> level for level in range(len(self.multipliers))]
        for resolution in self.attention:
            if resolution not in levels:
                raise ValueError(
                    f"attention: {resolution} is no level; expected one of {', '.join(map(str, levels))}"
                )


class UNet(Denoiser):
    """A `Denoiser`: (x_t, t, cond) -> prediction of x_0, with t = sigma (variance-exploding).

    Features for a discriminator are asked for by depth: the resolution of an encoder level ("8", "4") or "bottleneck".
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = c = config
        self.schedule = EDM()
        self.image_shape = (c.channels, c.resolution, c.resolution)
        self.label_count = c.label_count
        embedding = 4 * c.width
        self.noise_embedding = nn.Sequential(
            FourierFeatures(c.width),
            nn.Linear(c.width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        # One more row than there are labels: the last is "no label".
        self.label_embedding = nn.Embedding(c.label_count + 1, embedding)
        nn.init.zeros_(self.label_embedding.weight)

        self.stem = nn.Conv2d(c.channels, c.width, 3, padding=1)
        encoder: list[nn.ModuleList] = []
        widths = [c.width * m for m in c.multipliers]
        skips, current = [c.width], c.width
        for level, width in enumerate(widths):
            resolution = c.resolution >> level
            stage = nn.ModuleList()
            if level:
                stage.append(nn.AvgPool2d(2))
                skips.append(current)
            for _ in range(c.blocks):
                stage.append(ResidualBlock(current, width, embedding, c.dropout, resolution in c.attention))
                current = width
                skips.append(current)
            encoder.append(stage)
        self.encoder = nn.ModuleList(encoder)
        self.bottleneck = ResidualBlock(current, current, embedding, c.dropout, bool(c.attention))
        decoder: list[nn.ModuleList] = []
        for level, width in reversed(list(enumerate(widths))):
            stage = nn.ModuleList()
            for _ in range(c.blocks + 1):
                stage.append(
                    ResidualBlock(
                        current + skips.pop(),
                        width,
                        embedding,
                        c.dropout,
                        c.resolution >> level in c.attention,
                    )
                )
                current = width
            if level:
                stage.append(nn.Upsample(scale_factor=2.0))
            decoder.append(stage)
        self.decoder = nn.ModuleList(decoder)
        self.head = nn.Sequential(
            nn.GroupNorm(groups(current), current),
            nn.SiLU(),
            zero_init(nn.Conv2d(current, c.channels, 3, padding=1)),
        )

    def describe(self) -> dict[str, Any]:
        """Its sizes, as plain data."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> UNet:
        """The network of those sizes. Raises TypeError or ValueError where they are none."""
        return cls(UNetConfig(**description))

    @property
    def depth_channels(self) -> dict[str, int]:
        """Names of the depths that `features` may ask for, and the channels of each."""
        widths = {
            str(self.config.resolution >> i): self.config.width * m
            for i, m in enumerate(self.config.multipliers)
        }
        return widths | {"bottleneck": self.config.width * self.config.multipliers[-1]}

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
        """Predict x_0 from x_t at noise level t = sigma; with `depths`, also return the encoder's features at those depths."""
        sigma, sigma_data = expand_like(t, x_t), self.config.sigma_data
        scale = (sigma**2 + sigma_data**2).rsqrt()
        hidden, skips, embedding, features = self._encode(x_t * scale, t, cond, depths)
        output = self._decode(hidden, skips, embedding)
        x0 = (sigma_data * scale) ** 2 * x_t + sigma * sigma_data * scale * output
        return (x0, features) if depths else x0

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """EDM's weight of the squared error of x_0, (sigma^2 + sigma_data^2)/(sigma sigma_data)^2: that of a unit-variance target."""
        return t**-2 + self.config.sigma_data**-2

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Only the encoder's features at `depths`: half the cost of a prediction."""
        scale = (t**2 + self.config.sigma_data**2).rsqrt()
        return self._encode(x_t * expand_like(scale, x_t), t, cond, depths)[3]

    def _embed(self, t: Tensor, label: Int64[Tensor, " b"] | None) -> Tensor:
        return F.silu(
            self.noise_embedding(t.log() / 4)
            + self.label_embedding(label_rows(label, t, self.config.label_count))
        )

    def _encode(
        self, x: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, list[Tensor], Tensor, Features]:
        embedding = self._embed(t, cond.label)
        hidden = self.stem(x)
        skips, features = [hidden], {}
        for level, stage in enumerate(self.encoder):
            for layer in stage.children():
                hidden = layer(hidden, embedding) if isinstance(layer, ResidualBlock) else layer(hidden)
                skips.append(hidden)
            features[str(self.config.resolution >> level)] = hidden
        features["bottleneck"] = hidden = self.bottleneck(hidden, embedding)
        return hidden, skips, embedding, {depth: features[depth] for depth in depths}

    def _decode(self, hidden: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        skips = list(skips)
        for stage in self.decoder:
            for layer in stage.children():
                is_block = isinstance(layer, ResidualBlock)
                hidden = (
                    layer(torch.cat([hidden, skips.pop()], dim=1), embedding) if is_block else layer(hidden)
                )
        return self.head(hidden)


class ResidualBlock(CheckpointedBlock):
    """Two 3x3 convolutions with FiLM between them, a residual path, and self-attention after it if asked for."""

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
    """Self-attention over the pixels, 32 channels a head, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32)
        self.norm = nn.GroupNorm(groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(b, 3, self.heads, c // self.heads, h * w)
            .transpose(-1, -2)
            .unbind(1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        return x + self.out(attended)
