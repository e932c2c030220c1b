"""Autoencoders of diffusers' pipelines, between images and the latents of their denoisers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.networks.diffusers.autoencoders.kinds import AUTOENCODERS

MEGAPIXEL = 2**20


class PipelineCodec:
    """The `ImageCodec` of an autoencoder of diffusers whose weights are of type `dtype`.

    It returns the floating-point type that it is given. It works on as many images at once as make a
    megapixel, since each megapixel takes gigabytes. An autoencoder whose activations are too large for half
    precision (`force_upcast`, as SDXL's) decodes in float32 under autocast to float16, as diffusers'
    pipelines do. With `ignores_shift` latents are not shifted, as some pipelines have it.
    """

    def __init__(self, vae: Any, dtype: torch.dtype, ignores_shift: bool = False) -> None:
        self.vae, self.dtype, self.ignores_shift = vae, dtype, ignores_shift
        self.kind = AUTOENCODERS[type(vae).__name__]
        self.channels = self.kind.channels(vae.config)
        self.factor = self.kind.factor(vae)
        """Pixels to one side of a latent."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PipelineCodec:
        """Copies of a network share their autoencoder."""
        return self

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.vae.config[self.kind.pixel_channels], *(self.factor * side for side in latent_shape[1:]))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Encode images in [-1, 1] as the means of their latents, normalised as the network expects them."""
        parts = [self._encode(part.to(self.dtype)).to(images.dtype) for part in self._split(images, 1)]
        latents = torch.cat(parts)
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Decode latents to images in [-1, 1] up to overshoot."""
        mean, std = self._statistics(latents)
        parts = self._split((latents * std + mean).to(self.dtype), self.factor)
        with self._without_float16(latents.device):
            images = torch.cat([self._decode(part) for part in parts])
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

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the autoencoder's latents."""
        mean, std = self.kind.statistics(self.vae, latents)
        return (torch.zeros_like(mean) if self.ignores_shift else mean), std

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode(images.unsqueeze(2) if self.kind.is_of_videos else images)
        if not hasattr(encoded, "latent_dist"):  # an AutoencoderDC has no distribution
            return encoded.latent
        mode: Tensor = encoded.latent_dist.mode()
        return mode.squeeze(2) if self.kind.is_of_videos else mode

    def _decode(self, latents: Tensor) -> Tensor:
        if not self.kind.is_of_videos:
            return self.vae.decode(latents, return_dict=False)[0]
        return self.vae.decode(latents.unsqueeze(2), return_dict=False)[0].squeeze(2)

    def _split(self, x: Tensor, factor: int) -> tuple[Tensor, ...]:
        """Split a batch into parts of about a megapixel; an element of x stands for `factor`^2 pixels."""
        pixels = x.shape[2] * x.shape[3] * factor**2
        return x.split(max(1, MEGAPIXEL // pixels))
