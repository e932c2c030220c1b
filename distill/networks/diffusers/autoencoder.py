"""The image autoencoders of diffusers' pipelines: from images to latents in the units in which their denoisers have them, and back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MEGAPIXEL = 2**20


class Latents:
    """An `AutoencoderKL` or `AutoencoderDC`, whose weights are of `dtype`. Images and latents are of the caller's type, in and out.

    It works on as many images at once as make a megapixel, since it takes gigabytes for each megapixel. One whose activations are too large for
    half precision (`force_upcast`, as SDXL's) decodes in float32 where the caller computes in float16, as diffusers' pipelines have it.
    """

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        self.vae, self.dtype = vae, dtype
        self.channels, self.image_channels = vae.config.latent_channels, vae.config.in_channels
        levels = vae.config.get("encoder_block_out_channels") or vae.config.block_out_channels
        self.factor = 2 ** (len(levels) - 1)
        """Pixels to a latent's side: each level is half as high as the last."""

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """The latents' mean."""
        shift, scale = self._units(images)
        return torch.cat(
            [
                (self._encode(some.to(self.dtype)).to(images.dtype) - shift) / scale
                for some in self._parts(images, 1)
            ]
        )

    def decode(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Images."""
        shift, scale = self._units(latents)
        parts = self._parts((latents * scale + shift).to(self.dtype), self.factor)
        with self._upcast(latents.device):
            return torch.cat([self.vae.decode(some, return_dict=False)[0] for some in parts]).to(
                latents.dtype
            )

    def _upcast(self, device: torch.device) -> AbstractContextManager[object]:
        """Without float16, where that is too small for this autoencoder."""
        kind = device.type
        known = torch.amp.autocast_mode.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if (
            not known
            or torch.get_autocast_dtype(kind) != torch.float16
            or not self.vae.config.get("force_upcast", False)
        ):
            return nullcontext()
        return torch.autocast(kind, enabled=False)

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode(images)
        return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent

    def _parts(self, x: Tensor, pixels: int) -> tuple[Tensor, ...]:
        """A batch, of so many pixels to a side of what it has for one, in parts."""
        return x.split(max(1, MEGAPIXEL // (x.shape[2] * x.shape[3] * pixels**2)))

    def _units(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's latents, which for the network are 0 and 1."""
        config = self.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (
                x.new_tensor(config[name]).reshape(1, -1, 1, 1) for name in ("latents_mean", "latents_std")
            )
        else:
            mean, std = x.new_tensor(config.get("shift_factor") or 0.0), x.new_tensor(1.0)
        return mean, std / config.scaling_factor
