"""The networks of EDM (Karras et al. 2022): DDPM++ and NCSN++ (`SongUNet`) and ADM (`DhariwalUNet`), as denoisers.

Written from the papers (Song et al. 2021, Dhariwal and Nichol 2021, Karras et al. 2022, appendix F.3); state names are those of the published
networks, so that their weights load strictly.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Sizes of a `SongUNet`: DDPM++ as it stands; NCSN++ has fourier noise features, twice as many, a residual encoder and the filter 1 3 3 1.

    `embedding_multiplier` times `width` is the length of the embedding, `augment_count` that of the augmentation vector of its training.
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
        for name, known in (
            ("noise_embedding", ("positional", "fourier")),
            ("encoder", ("standard", "residual")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}")


@dataclasses.dataclass(frozen=True)
class DhariwalUNetConfig(BackboneConfig):
    """Sizes of a `DhariwalUNet`; the fields mean what those of `SongUNetConfig` mean."""

    attention: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.1
    embedding_multiplier: int = 4
    augment_count: int = 0


class SongUNet(Backbone):
    """DDPM++ or NCSN++: one attention head, sums scaled to keep their variance, the condition a shift. Its output has `output_channels`."""

    def __init__(self, config: SongUNetConfig, output_channels: int) -> None:
        super().__init__()
        self.config = c = config
        noise, self.embedding = c.width * c.noise_multiplier, c.width * c.embedding_multiplier
        self.map_noise = (
            PositionalAngles(noise // 2, endpoint=True)
            if c.noise_embedding == "positional"
            else FourierAngles(noise // 2)
        )
        self.map_label = nn.Linear(c.label_count, noise) if c.label_count else None
        # A distilled image is not augmented: the weight is there to be loaded and saved.
        self.map_augment = nn.Linear(c.augment_count, noise, bias=False) if c.augment_count else None
        self.map_layer0 = nn.Linear(noise, self.embedding)
        self.map_layer1 = nn.Linear(self.embedding, self.embedding)

        encoder, decoder = plan(c, c.channels, c.width)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        pyramid = c.channels
        for place in encoder:
            if place.kind == "conv":
                self.enc[place.name] = nn.Conv2d(place.inputs, place.outputs, 3, padding=1)
                continue
            self.enc[place.name] = self._block(place, place.attends(c.attention))
            if place.kind == "down" and c.encoder == "residual":
                name = f"{place.resolution}x{place.resolution}_aux_residual"
                self.enc[name] = ResampledConv(
                    pyramid, place.outputs, 3, c.resample_filter, up=False, filter_last=True
                )
                pyramid = place.outputs
        for place in decoder:  # of the blocks at a resolution, the last alone attends
            self.dec[place.name] = self._block(
                place, place.attends(c.attention) and place.kind in ("in0", f"block{c.blocks}")
            )
        self.dec[self._head("norm")] = group_norm(decoder[-1].outputs, 1e-6)
        self.dec[self._head("conv")] = nn.Conv2d(decoder[-1].outputs, output_channels, 3, padding=1)

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        angles = self.map_noise(noise)
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        if self.map_label is not None and label is not None:
            embedding = embedding + self.map_label(label * math.sqrt(label.shape[1]))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def head(self, hidden: Tensor) -> Tensor:
        return self.dec[self._head("conv")](F.silu(self.dec[self._head("norm")](hidden)))

    def _head(self, part: str) -> str:
        return f"{self.config.resolution}x{self.config.resolution}_aux_{part}"

    def _block(self, place: LayerSpec, attention: bool) -> Block:
        return Block(
            place,
            self.embedding,
            heads=int(attention),
            dropout=self.config.dropout,
            taps=self.config.resample_filter,
            scales=False,
            projects=True,
            residual_scale=math.sqrt(0.5),
            eps=1e-6,
        )


class DhariwalUNet(Backbone):
    """ADM: 64 channels a head, the condition a scale and a shift. Its output has `output_channels`."""

    def __init__(self, config: DhariwalUNetConfig, output_channels: int) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = c.width * c.embedding_multiplier
        self.map_noise = PositionalAngles(c.width // 2, endpoint=False)
        self.map_augment = (
            nn.Linear(c.augment_count, c.width, bias=False) if c.augment_count else None
        )  # not used, as in SongUNet
        self.map_layer0 = nn.Linear(c.width, self.embedding)
        self.map_layer1 = nn.Linear(self.embedding, self.embedding)
        self.map_label = nn.Linear(c.label_count, self.embedding, bias=False) if c.label_count else None

        encoder, decoder = plan(c, c.channels, c.width * c.multipliers[0])
        self.enc = nn.ModuleDict({encoder[0].name: nn.Conv2d(c.channels, encoder[0].outputs, 3, padding=1)})
        self.enc.update({place.name: self._block(place) for place in encoder[1:]})
        self.dec = nn.ModuleDict({place.name: self._block(place) for place in decoder})
        self.out_norm = group_norm(decoder[-1].outputs, 1e-5)
        self.out_conv = nn.Conv2d(decoder[-1].outputs, output_channels, 3, padding=1)

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        angles = self.map_noise(noise)
        embedding = self.map_layer1(F.silu(self.map_layer0(torch.cat([angles.cos(), angles.sin()], dim=1))))
        if self.map_label is not None and label is not None:
            embedding = embedding + self.map_label(label)
        return F.silu(embedding)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(hidden)))

    def _block(self, place: LayerSpec) -> Block:
        return Block(
            place,
            self.embedding,
            heads=place.outputs // 64 if place.attends(self.config.attention) else 0,
            dropout=self.config.dropout,
            taps=(1, 1),
            scales=True,
            projects=False,
            residual_scale=1.0,
            eps=1e-5,
        )


SIZES: dict[str, Any] = {"SongUNet": SongUNetConfig, "DhariwalUNet": DhariwalUNetConfig}
PRECONDITIONINGS: dict[str, Any] = {
    kind.__name__: kind for kind in (EDMPrecond, VPPrecond, VEPrecond, IDDPMPrecond)
}


class EDMNetwork(Preconditioned):
    """One of EDM's U-Nets, `model`, with one of its preconditionings. `u` holds the noise levels of one that has discrete ones."""

    def __init__(self, config: SongUNetConfig | DhariwalUNetConfig, precond: Preconditioning) -> None:
        super().__init__(config, precond)
        outputs = config.channels * (2 if precond.learns_variance else 1)
        self.model: Backbone = (
            SongUNet(config, outputs) if isinstance(config, SongUNetConfig) else DhariwalUNet(config, outputs)
        )
        self.u: Tensor | None
        self.register_buffer("u", precond.levels() if isinstance(precond, IDDPMPrecond) else None)

    @property
    def backbone(self) -> Backbone:
        return self.model

    @property
    def levels(self) -> Levels | None:
        return self.u

    def level_range(self) -> tuple[float, float]:
        return super().level_range() if self.u is None else (self.u[-2].item(), self.u[0].item())

    def nearest_level(self, noise_to_signal: float) -> float:
        if self.u is None:
            return noise_to_signal
        levels = self.u[:-1]  # the last, 0, is no level to denoise at
        return levels[(levels - noise_to_signal).abs().argmin()].item()

    def describe(self) -> dict[str, Any]:
        """Its preconditioning and its sizes, as plain data."""
        return {"precond": _describe(self.precond, self.precond), "model": _describe(self.sizes, self.model)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EDMNetwork:
        """The network of that description. Raises KeyError, TypeError or ValueError where it is none."""
        precond, model = dict(description["precond"]), dict(description["model"])
        sizes = read_plain(SIZES[model.pop("class")], model)
        return cls(sizes, read_plain(PRECONDITIONINGS[precond.pop("class")], precond))


def _describe(settings: Any, built: object) -> dict[str, Any]:
    """Return a dataclass as plain data under the class that was built of it."""
    return {"class": type(built).__name__, **dataclasses.asdict(settings)}
