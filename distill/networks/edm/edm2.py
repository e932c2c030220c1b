"""The network of EDM2 (Karras et al. 2024): a U-Net each of whose layers preserves the magnitude of what passes, as a denoiser.

Written from the paper; equations and figures cited are its own. State names are those of the published networks, so that their weights load
strictly. Of latents, as of pixels, it is a denoiser of arrays (channels, resolution, resolution) whose standard deviation is `sigma_data`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.activation_checkpointing import CheckpointedBlock
from distill.networks.edm.autoencoder import StabilityAutoencoder
from distill.networks.edm.backbone import Backbone, BackboneConfig, LayerSpec, plan, read_plain
from distill.networks.edm.layers import attend, split_heads
from distill.networks.edm.preconditioning import EDMPrecond, Preconditioned

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class EDM2Config(BackboneConfig):
    """Sizes of an `EDM2Network`. A balance is the share of the second of two summands: the label, the skip, the residual branch, attention.

    `noise_multiplier` times `width` is the length of the noise features; None takes the channels of the finest level, and where it stands for
    `embedding_multiplier` the most of any level. `logvar_channels` None leaves out the uncertainty, which students do not have.
    """

    embedding_multiplier: int | None = None
    noise_multiplier: int | None = None
    channels_per_head: int = 64
    label_balance: float = 0.5
    skip_balance: float = 0.5
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    largest_activation: float | None = 256.0
    sigma_data: float = 0.5
    logvar_channels: int | None = 128


class EDM2Network(Preconditioned):
    """EDM2's U-Net, `unet`, with EDM's preconditioning, and the uncertainty that it was trained with.

    `autoencoder` makes images of latents; without one the network's arrays are the images.
    """

    codec: StabilityAutoencoder | None

    def __init__(self, config: EDM2Config, autoencoder: StabilityAutoencoder | None = None) -> None:
        super().__init__(config, EDMPrecond(config.sigma_data))
        self.codec = autoencoder
        self.unet = EDM2UNet(config)
        count = config.logvar_channels
        self.logvar_fourier = None if count is None else MPFourier(count)
        self.logvar_linear = None if count is None else MPConv(count, 1)

    @property
    def backbone(self) -> Backbone:
        return self.unet

    def logvar(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """u(sigma), the learnt log variance of the weighted error at t = sigma (eq. 14 and 21). Raises ValueError for a network without it."""
        if self.logvar_fourier is None or self.logvar_linear is None:
            raise ValueError("logvar: the network was saved without its uncertainty")
        return self.logvar_linear(self.logvar_fourier(self.precond(t).noise))[:, 0]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """What every move of a module goes through: the autoencoder goes with it."""
        super()._apply(*args, **kwargs)
        if self.codec is not None:
            self.codec.to(self.unet.out_gain.device)
        return self

    def describe(self) -> dict[str, Any]:
        """Its sizes, and where its autoencoder is from, as plain data."""
        return {
            **dataclasses.asdict(self.sizes),
            "autoencoder": None if self.codec is None else self.codec.source,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EDM2Network:
        """The network of those sizes. Raises TypeError or ValueError where they are none."""
        sizes = dict(description)
        source = sizes.pop("autoencoder", None)
        return cls(read_plain(EDM2Config, sizes), None if source is None else StabilityAutoencoder(source))


class EDM2UNet(Backbone):
    """The magnitude-preserving U-Net (figure 21)."""

    def __init__(self, config: EDM2Config) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.width * multiplier for multiplier in c.multipliers]
        noise = widths[0] if c.noise_multiplier is None else c.width * c.noise_multiplier
        embedding = max(widths) if c.embedding_multiplier is None else c.width * c.embedding_multiplier
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, embedding)
        self.emb_label = MPConv(c.label_count, embedding) if c.label_count else None
        encoder, decoder = plan(c, c.channels + 1, widths[0])
        self.enc = nn.ModuleDict({encoder[0].name: MPConv(encoder[0].inputs, encoder[0].outputs, 3)})
        self.enc.update({place.name: EDM2Block(place, embedding, c, decodes=False) for place in encoder[1:]})
        self.dec = nn.ModuleDict(
            {place.name: EDM2Block(place, embedding, c, decodes=True) for place in decoder}
        )
        self.out_conv = MPConv(decoder[-1].outputs, c.channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        embedding = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None and label is not None:
            embedding = mp_sum(
                embedding, self.emb_label(label * math.sqrt(label.shape[1])), self.config.label_balance
            )
        return mp_silu(embedding)

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        # No layer has a bias: a channel of ones is what stands in for it.
        return super().encode(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), embedding)

    def join(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Magnitude-preserving concatenation (eq. 103)."""
        share = self.config.skip_balance
        scale = math.sqrt((hidden.shape[1] + skip.shape[1]) / ((1 - share) ** 2 + share**2))
        parts = ((1 - share) / math.sqrt(hidden.shape[1]) * hidden, share / math.sqrt(skip.shape[1]) * skip)
        return torch.cat([scale * part for part in parts], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out_conv(hidden, self.out_gain)


class EDM2Block(CheckpointedBlock):
    """A residual block (figure 21). The encoder's projects and normalises each pixel first; the decoder's projects its main path last."""

    def __init__(self, place: LayerSpec, embedding: int, config: EDM2Config, decodes: bool) -> None:
        super().__init__()
        self.config, self.change, self.decodes = config, place.kind, decodes
        self.heads = place.outputs // config.channels_per_head if place.attends(config.attention) else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(place.inputs if decodes else place.outputs, place.outputs, 3)
        self.emb_linear = MPConv(embedding, place.outputs)
        self.conv_res1 = MPConv(place.outputs, place.outputs, 3)
        self.conv_skip = MPConv(place.inputs, place.outputs, 1) if place.inputs != place.outputs else None
        self.attn_qkv = MPConv(place.outputs, 3 * place.outputs, 1) if self.heads else None
        self.attn_proj = MPConv(place.outputs, place.outputs, 1) if self.heads else None

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Tensor:
        if self.change == "down":
            x = F.avg_pool2d(x, 2)
        elif self.change == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if not self.decodes:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), [1])
        hidden = self.conv_res0(mp_silu(x))
        hidden = mp_silu(hidden * (self.emb_linear(embedding, self.emb_gain) + 1)[:, :, None, None])
        hidden = self.conv_res1(F.dropout(hidden, self.config.dropout, self.training))
        if self.decodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, hidden, self.config.residual_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            q, k, v = normalize(split_heads(self.attn_qkv(x), self.heads), [2]).unbind(3)
            x = mp_sum(x, self.attn_proj(attend(q, k, v).reshape(x.shape)), self.config.attention_balance)
        largest = self.config.largest_activation
        return x if largest is None else x.clamp(-largest, largest)


class MPFourier(nn.Module):
    """Magnitude-preserving Fourier features (eq. 75): fixed random frequencies and phases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.phases: Tensor
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: Float[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        return (x[:, None] * self.freqs + self.phases).cos() * math.sqrt(2)


class MPConv(nn.Module):
    """A convolution, or with kernel 0 a linear map, whose rows have unit magnitude whatever its weight's (eq. 47).

    In training the weight itself is kept at unit magnitude (eq. 66), lest it grow and the effective learning rate decay.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[kernel] * (2 if kernel else 0)))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        if self.training:
            # Past autograd: where two passes share a backward, the second changes nothing that the first has read but rounding.
            self.weight.data.copy_(normalize(self.weight.data))
        weight = normalize(self.weight)
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def normalize(x: Tensor, axes: Sequence[int] = (), eps: float = 1e-4) -> Tensor:
    """Divide by the root mean square over `axes`, by default all but the first, plus `eps`."""
    axes = list(axes) or list(range(1, x.ndim))
    at_least_single = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=at_least_single)
    return x / (eps + norm * math.sqrt(norm.numel() / x.numel())).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that preserves the magnitude of normal inputs (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Sum that preserves the magnitude of uncorrelated summands (eq. 88); `share` is that of b."""
    return a.lerp(b, share) / math.sqrt((1 - share) ** 2 + share**2)
