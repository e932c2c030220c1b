"""Autoencoders of diffusers' pipelines, between images and the latents of their denoisers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.diffusion.constants import constant

MEGAPIXEL = 2**20


class PipelineCodec:
    """The `ImageCodec` of an `AutoencoderKL` or `AutoencoderDC` whose weights are of type `dtype`.

    It returns the floating-point type that it is given. It works on as many images at once as make a
    megapixel, since each megapixel takes gigabytes. An autoencoder whose activations are too large for half
    precision (`force_upcast`, as SDXL's) decodes in float32 under autocast to float16, as diffusers'
    pipelines do.
    """

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        self.vae, self.dtype = vae, dtype
        self.channels: int = vae.config.latent_channels
        levels = vae.config.get("encoder_block_out_channels") or vae.config.block_out_channels
        self.factor = 2 ** (len(levels) - 1)
        """Pixels to one side of a latent: each level after the first halves the height."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PipelineCodec:
        """Copies of a network share their autoencoder."""
        return self

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.vae.config.in_channels, *(self.factor * side for side in latent_shape[1:]))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Encode images in [-1, 1] as the means of their latents, normalised as the network expects them."""
        mean, std = self._statistics(images)
        parts = [self._encode(part.to(self.dtype)).to(images.dtype) for part in self._split(images, 1)]
        return torch.cat([(part - mean) / std for part in parts])

    def decode(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Decode latents to images in [-1, 1] up to overshoot."""
        mean, std = self._statistics(latents)
        parts = self._split((latents * std + mean).to(self.dtype), self.factor)
        with self._without_float16(latents.device):
            images = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in parts])
        return images.to(latents.dtype)

    def drop_encoder(self) -> None:
        """Free the half that encodes images; `encode` cannot be called from then on."""
        for name in ("encoder", "quant_conv"):
            if getattr(self.vae, name, None) is not None:
                setattr(self.vae, name, None)

    def components(self) -> dict[str, nn.Module]:
        return {"vae": self.vae}

    def components_to_bundle(self) -> dict[str, nn.Module]:
        """Return nothing: a pipeline saves its own autoencoder."""
        return {}

    def _without_float16(self, device: torch.device) -> AbstractContextManager[object]:
        """Switch autocast to float16 off if the autoencoder's activations are too large for it."""
        kind = device.type
        if not self.vae.config.get("force_upcast", False):
            return nullcontext()
        if not torch.amp.autocast_mode.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return nullcontext()
        if torch.get_autocast_dtype(kind) != torch.float16:
            return nullcontext()
        return torch.autocast(kind, enabled=False)

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode(images)
        if hasattr(encoded, "latent_dist"):  # of an AutoencoderKL; an AutoencoderDC has no distribution
            return encoded.latent_dist.mode()
        return encoded.latent

    def _split(self, x: Tensor, factor: int) -> tuple[Tensor, ...]:
        """Split a batch into parts of about a megapixel; an element of x stands for `factor`^2 pixels."""
        pixels = x.shape[2] * x.shape[3] * factor**2
        return x.split(max(1, MEGAPIXEL // pixels))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the autoencoder's latents; the network's have 0 and 1."""
        config = self.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = tuple(config.latents_mean), tuple(config.latents_std)
        else:
            mean, std = (config.get("shift_factor") or 0.0,), (1.0,)
        mean_tensor, std_tensor = (constant(values, x).reshape(1, -1, 1, 1) for values in (mean, std))
        return mean_tensor, std_tensor / config.scaling_factor
