"""The skeleton that the U-Nets of EDM and EDM2 share: their sizes, where their layers stand, and the walk through them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.types import Features


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Where a layer stands in a U-Net: at which resolution, as what ("conv", "down", "up", "in0", "block2"), and its channels."""

    resolution: int
    kind: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}_{self.kind}"

    def attends(self, resolutions: tuple[int, ...]) -> bool:
        """Whether a block here has self-attention: at these resolutions, and first of all in the decoder."""
        return self.kind == "in0" or (self.kind.startswith("block") and self.resolution in resolutions)


MAX_BLOCKS, MAX_MULTIPLIER, MAX_SIZE = 64, 64, 65536
"""Beyond these a network is taken for a mistake: sizes may come from a file, and cost time and memory."""


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """What the sizes of the U-Nets have in common.

    The resolution halves at each of `multipliers`, times which `width` is the channels; `attention` holds the resolutions that have it. Raises
    ValueError where no network has such sizes.
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
            value, kind = getattr(self, field.name), str(field.type)
            least = int(not field.name.endswith("_count"))
            most = (
                MAX_BLOCKS
                if field.name == "blocks"
                else MAX_MULTIPLIER
                if "multiplier" in field.name
                else MAX_SIZE
            )
            for one in value if isinstance(value, tuple) else (value,):
                if one is None and "None" in kind:
                    continue
                if "int" in kind and not (isinstance(one, int) and least <= one <= most):
                    raise ValueError(f"{field.name}: expected whole numbers from {least} to {most}")
                if "float" in kind and not isinstance(one, (int, float)):
                    raise ValueError(f"{field.name}: expected a number")
        levels = len(self.multipliers)
        if not levels or self.resolution % 2 ** (levels - 1):
            raise ValueError(
                f"resolution {self.resolution} does not halve {levels - 1} times, as {levels} multipliers say"
            )


def plan(sizes: BackboneConfig, inputs: int, stem: int) -> tuple[list[LayerSpec], list[LayerSpec]]:
    """The layers of encoder and decoder in the order in which they run; `inputs` channels enter, `stem` leave the first convolution."""
    levels = [
        (sizes.resolution >> level, sizes.width * multiplier)
        for level, multiplier in enumerate(sizes.multipliers)
    ]
    encoder = [LayerSpec(sizes.resolution, "conv", inputs, stem)]
    for resolution, width in levels:
        current = encoder[-1].outputs
        if resolution != sizes.resolution:
            encoder.append(LayerSpec(resolution, "down", current, current))
        for index in range(sizes.blocks):
            encoder.append(LayerSpec(resolution, f"block{index}", encoder[-1].outputs, width))
    skips, current = [place.outputs for place in encoder], encoder[-1].outputs
    decoder = [LayerSpec(levels[-1][0], kind, current, current) for kind in ("in0", "in1")]
    for resolution, width in reversed(levels):
        if resolution != levels[-1][0]:
            decoder.append(LayerSpec(resolution, "up", current, current))
        for index in range(sizes.blocks + 1):
            decoder.append(LayerSpec(resolution, f"block{index}", current + skips.pop(), width))
            current = width
    return encoder, decoder


class Backbone(nn.Module):
    """A U-Net F(x; noise, label) whose layers stand in `enc` and `dec` under the names of their places, in the order in which they run.

    The decoder begins with the layers "in0" and "in1" at the coarsest resolution; what they return is the bottleneck.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        """c_noise and one-hot labels (zeros: no label) -> the embedding that the blocks are conditioned on."""
        raise NotImplementedError

    def join(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Bring an encoder's activations back in."""
        return torch.cat([hidden, skip], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        """The decoder's last activations -> F."""
        raise NotImplementedError

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor], Features]:
        """The bottleneck, what the decoder takes from the encoder, and the features at each depth."""
        hidden = pyramid = x
        skips: list[Tensor] = []
        features: Features = {}
        for name, layer in self.enc.items():
            if name.endswith(
                "_aux_residual"
            ):  # NCSN++: a pyramid of the input is mixed in at each resolution
                hidden = pyramid = skips[-1] = (hidden + layer(pyramid)) * math.sqrt(0.5)
            else:
                hidden = layer(hidden) if name.endswith("_conv") else layer(hidden, embedding)
                skips.append(hidden)
            features[name.split("x")[0]] = hidden
        for name, layer in self.dec.items():
            if name.endswith(("_in0", "_in1")):
                hidden = layer(hidden, embedding)
        return hidden, skips, features | {"bottleneck": hidden}

    def decode(self, hidden: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """F, from the bottleneck and the encoder's activations, which it uses up."""
        for name, layer in self.dec.items():
            if "_block" in name:
                hidden = layer(self.join(hidden, skips.pop()), embedding)
            elif name.endswith("_up"):
                hidden = layer(hidden, embedding)
        return self.head(hidden)


def read_plain(kind: Any, values: dict[str, Any]) -> Any:
    """A frozen dataclass from plain data, whose lists become tuples. Raises TypeError for other fields than its own."""
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
