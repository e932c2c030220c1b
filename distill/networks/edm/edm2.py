"""The network of EDM2 (Karras et al. 2024) as a denoiser: a U-Net whose layers preserve magnitudes.

It is written from the paper, whose equations and figures the comments cite. The names in its state are those
of the published networks, so that published weights load strictly. It denoises arrays (channels, resolution,
resolution) with standard deviation `sigma_data`, which are pixels or latents.
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

from distill.networks.computation.activation_checkpointing import CheckpointedBlock
from distill.networks.edm.autoencoder import StabilityAutoencoder
from distill.networks.edm.backbone import Backbone, BackboneConfig, LayerSpec, plan, read_plain
from distill.networks.edm.layers import split_heads
from distill.networks.edm.preconditioning import EDMPrecond, Preconditioned
from distill.networks.layers import attend

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class EDM2Config(BackboneConfig):
    """Sizes of an `EDM2Network`.

    A balance is the share of the second of two summands: the label, the skip connection, the residual branch,
    attention. `noise_multiplier` times `width` is the length of the noise features; None takes the channels
    of the finest level. `embedding_multiplier` times `width` is the length of the embedding; None takes the
    most channels of any level. `largest_activation` clamps what leaves each block. `logvar_channels` None
    leaves out the uncertainty, which students do not have.
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
    """EDM2's U-Net, `unet`, with EDM's preconditioning and the uncertainty that it was trained with.

    `autoencoder` decodes its latents to images; without one the network works on pixels.
    """

    codec: StabilityAutoencoder | None

    def __init__(self, config: EDM2Config, autoencoder: StabilityAutoencoder | None = None) -> None:
        super().__init__(config, EDMPrecond(config.sigma_data))
        self.codec = autoencoder
        self.unet = EDM2UNet(config)
        channels = config.logvar_channels
        self.logvar_fourier = None if channels is None else MPFourier(channels)
        self.logvar_linear = None if channels is None else MPConv(channels, 1)

    @property
    def backbone(self) -> Backbone:
        return self.unet

    def logvar(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return u(sigma), the learned log variance of the weighted error, at t = sigma (eq. 14 and 21)."""
        if self.logvar_fourier is None or self.logvar_linear is None:
            raise ValueError("logvar: the network was saved without its uncertainty")
        return self.logvar_linear(self.logvar_fourier(self.precond(t).noise))[:, 0]

    def normalized_layers(self) -> list[MPConv]:
        """Return the layers whose weights a forward pass in training normalises."""
        return [module for module in self.unet.modules() if isinstance(module, MPConv)]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move the autoencoder too: every move of a module goes through here."""
        super()._apply(*args, **kwargs)
        if self.codec is not None:
            self.codec.to(self.unet.out_gain.device)
        return self

    def describe(self) -> dict[str, Any]:
        """Return its sizes and the source of its autoencoder as plain data."""
        source = None if self.codec is None else self.codec.source
        return {**dataclasses.asdict(self.sizes), "autoencoder": source}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> EDM2Network:
        """Build the network from what `describe` returned."""
        sizes = dict(description)
        source = sizes.pop("autoencoder", None)
        autoencoder = None if source is None else StabilityAutoencoder(source)
        return cls(read_plain(EDM2Config, sizes), autoencoder)


class EDM2UNet(Backbone):
    """The magnitude-preserving U-Net (figure 21)."""

    def __init__(self, config: EDM2Config) -> None:
        super().__init__()
        self.config = config
        widths = [width for _, width in config.levels]
        noise, embedding = widths[0], max(widths)
        if config.noise_multiplier is not None:
            noise = config.width * config.noise_multiplier
        if config.embedding_multiplier is not None:
            embedding = config.width * config.embedding_multiplier
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, embedding)
        self.emb_label = MPConv(config.label_count, embedding) if config.label_count else None
        encoder, decoder = plan(config, config.channels + 1, widths[0])
        stem = encoder[0]
        self.enc = nn.ModuleDict({stem.name: MPConv(stem.inputs, stem.outputs, 3)})
        for spec in encoder[1:]:
            self.enc[spec.name] = EDM2Block(spec, embedding, config, decodes=False)
        self.dec = nn.ModuleDict()
        for spec in decoder:
            self.dec[spec.name] = EDM2Block(spec, embedding, config, decodes=True)
        self.out_conv = MPConv(decoder[-1].outputs, config.channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        embedding = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None and label is not None:
            embedded = self.emb_label(label * math.sqrt(label.shape[1]))
            embedding = mp_sum(embedding, embedded, self.config.label_balance)
        return mp_silu(embedding)

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        # No layer has a bias; a channel of ones takes its place.
        return super().encode(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), embedding)

    def join(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Concatenate so that magnitudes are preserved (eq. 103)."""
        share = self.config.skip_balance
        hidden_channels, skip_channels = hidden.shape[1], skip.shape[1]
        scale = math.sqrt((hidden_channels + skip_channels) / ((1 - share) ** 2 + share**2))
        hidden = (1 - share) / math.sqrt(hidden_channels) * hidden
        skip = share / math.sqrt(skip_channels) * skip
        return torch.cat([scale * hidden, scale * skip], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out_conv(hidden, self.out_gain)


class EDM2Block(CheckpointedBlock):
    """A residual block (figure 21).

    The encoder's blocks project and normalise each pixel first; the decoder's project the main path last.
    """

    def __init__(self, spec: LayerSpec, embedding: int, config: EDM2Config, decodes: bool) -> None:
        super().__init__()
        self.config, self.kind, self.decodes = config, spec.kind, decodes
        inputs, outputs = spec.inputs, spec.outputs
        self.heads = outputs // config.channels_per_head if spec.attends(config.attention) else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.dropout = nn.Dropout(config.dropout)
        self.conv_res0 = MPConv(inputs if decodes else outputs, outputs, 3)
        self.emb_linear = MPConv(embedding, outputs)
        self.conv_res1 = MPConv(outputs, outputs, 3)
        self.conv_skip = MPConv(inputs, outputs, 1) if inputs != outputs else None
        self.attn_qkv = MPConv(outputs, 3 * outputs, 1) if self.heads else None
        self.attn_proj = MPConv(outputs, outputs, 1) if self.heads else None

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Tensor:
        if self.kind == "down":
            x = F.avg_pool2d(x, 2)
        elif self.kind == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if not self.decodes:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), [1])
        hidden = self.conv_res0(mp_silu(x))
        scale = (self.emb_linear(embedding, self.emb_gain) + 1)[:, :, None, None]
        hidden = mp_silu(hidden * scale)
        hidden = self.conv_res1(self.dropout(hidden))
        if self.decodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, hidden, self.config.residual_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            qkv = normalize(split_heads(self.attn_qkv(x), self.heads), [4])
            x = mp_sum(x, self.attn_proj(attend(qkv, x)), self.config.attention_balance)
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
    """A convolution, or with kernel 0 a linear map, whose rows are scaled to unit magnitude (eq. 47).

    In training the weight itself is kept at unit magnitude (eq. 66); otherwise it would grow, and the
    effective learning rate would decay.
    """

    is_normalized_outside = False
    """True in a sharded network, whose forward pass has a copy of the weight that is thrown away."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 0) -> None:
        super().__init__()
        shape = (outputs, inputs, kernel, kernel) if kernel else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        if self.training and not self.is_normalized_outside:
            # Hidden from autograd: if two forward passes share a backward pass, the second changes the
            # weight that the first has read by no more than rounding.
            self.normalize_rows(self.weight.data)
        weight = normalize(self.weight)
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def normalize_rows(self, rows: Tensor) -> None:
        """Scale rows of the weight to unit magnitude, in place."""
        if rows.numel():
            rows.copy_(normalize(rows))


def normalize(x: Tensor, axes: Sequence[int] = (), eps: float = 1e-4) -> Tensor:
    """Divide by the root mean square over `axes` (all but the first if empty), plus `eps`."""
    axes = list(axes) or list(range(1, x.ndim))
    at_least_single = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=at_least_single)
    return x / (eps + norm * math.sqrt(norm.numel() / x.numel())).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Apply SiLU, scaled to preserve the magnitude of normal inputs (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Add a and b so that the magnitude of uncorrelated summands is preserved (eq. 88); `share` is b's."""
    return a.lerp(b, share) / math.sqrt((1 - share) ** 2 + share**2)
