"""The skeleton that the U-Nets of EDM and EDM2 share: their sizes, lists of layers and forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.networks.computation.precision import as_weights
from distill.types import Features

T = TypeVar("T")

MAX_BLOCKS, MAX_MULTIPLIER, MAX_SIZE = 64, 64, 65536
"""Larger sizes are taken for a mistake: they may come from a file, and would cost time and memory."""


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """A layer of a U-Net. `kind` is "conv", "down", "up", "in0", "in1", or "block" with a number."""

    resolution: int
    kind: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}_{self.kind}"

    def attends(self, resolutions: tuple[int, ...]) -> bool:
        """Tell whether it has self-attention: blocks at these resolutions and "in0" do."""
        return self.kind == "in0" or (self.kind.startswith("block") and self.resolution in resolutions)


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Sizes that all the U-Nets have.

    The resolution halves from one of the `multipliers` to the next; the channels there are that multiple of
    `width`. Each level of the encoder has `blocks` blocks, and one more in the decoder. `attention` lists the
    resolutions that have it. Sizes that no network has raise ValueError.
    """

    resolution: int
    channels: int
    label_count: int = 0
    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_size(field.name, getattr(self, field.name), str(field.type))
        count = len(self.multipliers)
        if not count or self.resolution % 2 ** (count - 1):
            raise ValueError(
                f"resolution {self.resolution} does not halve {count - 1} times, as {count} multipliers say"
            )

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Resolution and channels of each level, finest first."""
        return [
            (self.resolution >> level, self.width * multiplier)
            for level, multiplier in enumerate(self.multipliers)
        ]


def check_size(name: str, value: Any, annotation: str) -> None:
    """Refuse a size, or an entry of a tuple of them, that does not fit its annotation or is out of range."""
    minimum = 0 if name.endswith("_count") else 1
    maximum = MAX_SIZE
    if name == "blocks":
        maximum = MAX_BLOCKS
    elif "multiplier" in name:
        maximum = MAX_MULTIPLIER
    entries = value if isinstance(value, tuple) else (value,)
    for entry in entries:
        if entry is None and "None" in annotation:
            continue
        if "int" in annotation and not (isinstance(entry, int) and minimum <= entry <= maximum):
            raise ValueError(f"{name}: expected whole numbers from {minimum} to {maximum}")
        if "float" in annotation and not isinstance(entry, (int, float)):
            raise ValueError(f"{name}: expected a number")


def plan(config: BackboneConfig, inputs: int, stem: int) -> tuple[list[LayerSpec], list[LayerSpec]]:
    """List the layers of encoder and decoder in the order in which they run.

    `inputs` channels enter the first convolution, and `stem` channels leave it.
    """
    encoder = [LayerSpec(config.resolution, "conv", inputs, stem)]
    channels = stem
    for resolution, width in config.levels:
        if resolution != config.resolution:
            encoder.append(LayerSpec(resolution, "down", channels, channels))
        for index in range(config.blocks):
            encoder.append(LayerSpec(resolution, f"block{index}", channels, width))
            channels = width
    skips = [spec.outputs for spec in encoder]
    coarsest = config.levels[-1][0]
    decoder = [LayerSpec(coarsest, kind, channels, channels) for kind in ("in0", "in1")]
    for resolution, width in reversed(config.levels):
        if resolution != coarsest:
            decoder.append(LayerSpec(resolution, "up", channels, channels))
        for index in range(config.blocks + 1):
            decoder.append(LayerSpec(resolution, f"block{index}", channels + skips.pop(), width))
            channels = width
    return encoder, decoder


class Backbone(nn.Module):
    """A U-Net F(x; noise, label).

    `enc` and `dec` hold its layers under the names of their specs, in the order in which they run. The
    decoder begins with the layers "in0" and "in1" at the coarsest resolution; their output is the bottleneck.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        """Embed c_noise and one-hot labels, which are zeros for no label, as the condition of the blocks."""
        raise NotImplementedError

    def join(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Combine the decoder's activations with a skip connection from the encoder."""
        return torch.cat([hidden, skip], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        """Map the decoder's last activations to F."""
        raise NotImplementedError

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor], Features]:
        """Return the bottleneck, the skip connections, and the features at each depth."""
        stem: Any = next(iter(self.enc.values()))
        hidden = pyramid = as_weights(x, stem.weight)
        skips: list[Tensor] = []
        features: Features = {}
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):
                # NCSN++ adds a pyramid of the input at each resolution.
                pyramid = (hidden + layer(pyramid)) * math.sqrt(0.5)
                hidden = skips[-1] = pyramid
            else:
                hidden = layer(hidden) if name.endswith("_conv") else layer(hidden, embedding)
                skips.append(hidden)
            features[name.split("x")[0]] = hidden
        for name, layer in self.dec.items():
            if name.endswith(("_in0", "_in1")):
                hidden = layer(hidden, embedding)
        return hidden, skips, features | {"bottleneck": hidden}

    def decode(self, hidden: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Compute F from the bottleneck and the skip connections, whose list it empties."""
        for name, layer in self.dec.items():
            if "_block" in name:
                hidden = layer(self.join(hidden, skips.pop()), embedding)
            elif name.endswith("_up"):
                hidden = layer(hidden, embedding)
        return self.head(hidden)


def read_plain(kind: Callable[..., T], values: dict[str, Any]) -> T:
    """Build a frozen dataclass from plain data, whose lists become tuples."""
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
