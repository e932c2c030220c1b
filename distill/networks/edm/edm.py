"""The networks of EDM (Karras et al. 2022): DDPM++ and NCSN++ (`SongUNet`), ADM (`DhariwalUNet`).

They are written from the papers (Song et al. 2021, Dhariwal and Nichol 2021, Karras et al. 2022, appendix
F.3). The names in their state are those of the published networks, so that published weights load strictly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.computation.precision import as_weights
from distill.networks.edm.backbone import Backbone, BackboneConfig, LayerSpec, plan, read_plain
from distill.networks.edm.layers import Block, FourierAngles, PositionalAngles, ResampledConv, group_norm
from distill.networks.edm.preconditioning import (
    EDMPrecond,
    IDDPMPrecond,
    Levels,
    Preconditioned,
    Preconditioning,
    VEPrecond,
    VPPrecond,
)


@dataclasses.dataclass(frozen=True)
class SongUNetConfig(BackboneConfig):
    """Sizes of a `SongUNet`. The defaults are DDPM++.

    NCSN++ has fourier noise features, twice as many of them, a residual encoder and the filter 1 3 3 1.
    `embedding_multiplier` times `width` is the length of the embedding, `noise_multiplier` times `width` that
    of the noise features, and `augment_count` that of the augmentation vector of its training.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.1
    embedding_multiplier: int = 4
    augment_count: int = 0
    noise_embedding: str = "positional"
    noise_multiplier: int = 1
    encoder: str = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_embedding not in ("positional", "fourier"):
            raise ValueError("noise_embedding: expected positional or fourier")
        if self.encoder not in ("standard", "residual"):
            raise ValueError("encoder: expected standard or residual")


@dataclasses.dataclass(frozen=True)
class DhariwalUNetConfig(BackboneConfig):
    """Sizes of a `DhariwalUNet`; its fields are those of `SongUNetConfig`."""

    attention: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.1
    embedding_multiplier: int = 4
    augment_count: int = 0


class SongUNet(Backbone):
    """DDPM++ or NCSN++, whose output has `output_channels`.

    Attention has one head, sums are scaled to keep their variance, and the condition is a shift.
    """

    def __init__(self, config: SongUNetConfig, output_channels: int) -> None:
        super().__init__()
        self.config = config
        noise = config.width * config.noise_multiplier
        embedding = config.width * config.embedding_multiplier
        self.embedding = embedding
        self.map_noise: PositionalAngles | FourierAngles
        if config.noise_embedding == "positional":
            self.map_noise = PositionalAngles(noise // 2, endpoint=True)
        else:
            self.map_noise = FourierAngles(noise // 2)
        self.map_label = nn.Linear(config.label_count, noise) if config.label_count else None
        # Distillation augments no images: these weights are only loaded and saved.
        augments = config.augment_count
        self.map_augment = nn.Linear(augments, noise, bias=False) if augments else None
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        encoder, decoder = plan(config, config.channels, config.width)
        self.enc = self._build_encoder(encoder)
        self.dec = self._build_decoder(decoder, output_channels)

    def _build_encoder(self, specs: list[LayerSpec]) -> nn.ModuleDict:
        layers = nn.ModuleDict()
        pyramid = self.config.channels
        for spec in specs:
            if spec.kind == "conv":
                layers[spec.name] = nn.Conv2d(spec.inputs, spec.outputs, 3, padding=1)
                continue
            layers[spec.name] = self._block(spec, spec.attends(self.config.attention))
            if spec.kind == "down" and self.config.encoder == "residual":
                name = f"{spec.resolution}x{spec.resolution}_aux_residual"
                taps = self.config.resample_filter
                layers[name] = ResampledConv(pyramid, spec.outputs, 3, taps, up=False, filter_last=True)
                pyramid = spec.outputs
        return layers

    def _build_decoder(self, specs: list[LayerSpec], output_channels: int) -> nn.ModuleDict:
        """Build the decoder; of its blocks at one resolution, only the last has attention."""
        layers = nn.ModuleDict()
        attending = ("in0", f"block{self.config.blocks}")
        for spec in specs:
            attends = spec.kind in attending and spec.attends(self.config.attention)
            layers[spec.name] = self._block(spec, attends)
        channels = specs[-1].outputs
        layers[self._head_name("norm")] = group_norm(channels, 1e-6)
        layers[self._head_name("conv")] = nn.Conv2d(channels, output_channels, 3, padding=1)
        return layers

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        angles = self.map_noise(noise)
        embedding = as_weights(torch.cat([angles.sin(), angles.cos()], dim=1), self.map_layer0.weight)
        if self.map_label is not None and label is not None:
            label = as_weights(label * math.sqrt(label.shape[1]), self.map_label.weight)
            embedding = embedding + self.map_label(label)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def head(self, hidden: Tensor) -> Tensor:
        norm, conv = self.dec[self._head_name("norm")], self.dec[self._head_name("conv")]
        return conv(F.silu(norm(hidden)))

    def _head_name(self, part: str) -> str:
        return f"{self.config.resolution}x{self.config.resolution}_aux_{part}"

    def _block(self, spec: LayerSpec, attends: bool) -> Block:
        return Block(
            spec,
            self.embedding,
            heads=int(attends),
            dropout=self.config.dropout,
            taps=self.config.resample_filter,
            scales=False,
            projects=True,
            residual_scale=math.sqrt(0.5),
            eps=1e-6,
        )


class DhariwalUNet(Backbone):
    """ADM: heads of 64 channels, and a condition that scales and shifts. Its output has `output_channels`."""

    def __init__(self, config: DhariwalUNetConfig, output_channels: int) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.width, config.width * config.embedding_multiplier
        self.embedding = embedding
        self.map_noise = PositionalAngles(width // 2, endpoint=False)
        # Loaded and saved only, as in SongUNet.
        augments = config.augment_count
        self.map_augment = nn.Linear(augments, width, bias=False) if augments else None
        self.map_layer0 = nn.Linear(width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        labels = config.label_count
        self.map_label = nn.Linear(labels, embedding, bias=False) if labels else None

        encoder, decoder = plan(config, config.channels, width * config.multipliers[0])
        stem = encoder[0]
        self.enc = nn.ModuleDict({stem.name: nn.Conv2d(stem.inputs, stem.outputs, 3, padding=1)})
        self.enc.update({spec.name: self._block(spec) for spec in encoder[1:]})
        self.dec = nn.ModuleDict({spec.name: self._block(spec) for spec in decoder})
        channels = decoder[-1].outputs
        self.out_norm = group_norm(channels, 1e-5)
        self.out_conv = nn.Conv2d(channels, output_channels, 3, padding=1)

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        angles = self.map_noise(noise)
        features = as_weights(torch.cat([angles.cos(), angles.sin()], dim=1), self.map_layer0.weight)
        embedding = self.map_layer1(F.silu(self.map_layer0(features)))
        if self.map_label is not None and label is not None:
            embedding = embedding + self.map_label(as_weights(label, self.map_label.weight))
        return F.silu(embedding)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(hidden)))

    def _block(self, spec: LayerSpec) -> Block:
        return Block(
            spec,
            self.embedding,
            heads=spec.outputs // 64 if spec.attends(self.config.attention) else 0,
            dropout=self.config.dropout,
            taps=(1, 1),
            scales=True,
            projects=False,
            residual_scale=1.0,
            eps=1e-5,
        )


CONFIGS: dict[str, Callable[..., SongUNetConfig | DhariwalUNetConfig]] = {
    "SongUNet": SongUNetConfig,
    "DhariwalUNet": DhariwalUNetConfig,
}
PRECONDITIONINGS: dict[str, Callable[..., Preconditioning]] = {
    "EDMPrecond": EDMPrecond,
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "IDDPMPrecond": IDDPMPrecond,
}


class EDMNetwork(Preconditioned):
    """One of EDM's U-Nets, `model`, with one of its preconditionings.

    The buffer `u` holds the noise levels of a preconditioning that has discrete ones.
    """

    takes_reduced_weights = True

    def __init__(self, config: SongUNetConfig | DhariwalUNetConfig, precond: Preconditioning) -> None:
        super().__init__(config, precond)
        outputs = config.channels * (2 if precond.learns_variance else 1)
        self.model: Backbone
        if isinstance(config, SongUNetConfig):
            self.model = SongUNet(config, outputs)
        else:
            self.model = DhariwalUNet(config, outputs)
        self.u: Tensor | None
        self.register_buffer("u", precond.levels() if isinstance(precond, IDDPMPrecond) else None)

    @property
    def backbone(self) -> Backbone:
        return self.model

    @property
    def levels(self) -> Levels | None:
        return self.u

    def level_range(self) -> tuple[float, float]:
        if self.u is None:
            return super().level_range()
        return self.u[-2].item(), self.u[0].item()

    def nearest_level(self, noise_to_signal: float) -> float:
        if self.u is None:
            return noise_to_signal
        levels = self.u[:-1]  # without the last, 0, where there is nothing to denoise
        return levels[(levels - noise_to_signal).abs().argmin()].item()

    def describe(self) -> dict[str, Any]:
        """Return its preconditioning and its sizes as plain data."""
        return {"precond": _describe(self.precond, self.precond), "model": _describe(self.sizes, self.model)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EDMNetwork:
        """Build the network from what `describe` returned."""
        precond, model = dict(description["precond"]), dict(description["model"])
        config = read_plain(CONFIGS[model.pop("class")], model)
        return cls(config, read_plain(PRECONDITIONINGS[precond.pop("class")], precond))


def _describe(settings: Any, built: object) -> dict[str, Any]:
    """Return a dataclass as plain data, with the name of the class that was built from it."""
    return {"class": type(built).__name__, **dataclasses.asdict(settings)}
