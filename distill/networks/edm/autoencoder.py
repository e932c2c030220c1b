"""The autoencoder of EDM2's networks of latents: Stability's, whose latents get a mean of about 0 and a deviation of about 0.5 in each channel.

EDM2 gives it images in [0, 1], though it was trained on [-1, 1], and takes its output as [0, 1] again (`StabilityVAEEncoder` of the published
`training/encoders.py`). The networks learned the latents that come of that, so that a decoder in [-1, 1] would show other images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.networks.folder import AUTOENCODER

PUBLISHED = "stabilityai/sd-vae-ft-mse"
CHANNELS, FACTOR = 4, 8
"""Channels of latents, and pixels to a latent's side."""
MEAN, DEVIATION = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)
"""Of the autoencoder's own latents of ImageNet, by channel (Karras et al. 2024, the published `training/encoders.py`)."""
SIGMA_DATA = 0.5


class StabilityAutoencoder:
    """Images in [-1, 1] to EDM2's latents and back. `source` is a folder or a name on the hub, opened when it is first needed, by copies too."""

    def __init__(self, source: str) -> None:
        self.source, self.device = source, torch.device("cpu")
        self._vae: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StabilityAutoencoder:
        return self

    def to(self, device: torch.device) -> None:
        self.device = device
        if self._vae is not None:
            self._vae.to(device)

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (3, *(FACTOR * side for side in latent_shape[1:]))

    def components(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.vae}

    def components_to_bundle(self) -> dict[str, nn.Module]:
        """Return the autoencoder if it lies on this machine only, so that an export must carry it."""
        return {AUTOENCODER: self.vae} if Path(self.source).is_dir() else {}

    def use(self, vae: Any) -> None:
        """Have this one, an `AutoencoderKL`, instead of opening the source."""
        self._vae = vae.requires_grad_(False)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 _ _"]:
        """Encode images in [-1, 1] as the means of their latents, in the type of the images.

        Raises UserError where the autoencoder cannot be opened.
        """
        own = images.to(self.vae.dtype)
        mean, scale = _units(own)
        latents = self.vae.encode((own + 1) / 2).latent_dist.mode()
        return ((latents - mean) / scale).to(images.dtype)

    def decode(self, latents: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 _ _"]:
        """Decode latents to images in [-1, 1] up to overshoot, in the autoencoder's type or, if it is wider, in that of the latents.

        Raises UserError where the autoencoder cannot be opened.
        """
        own = latents.to(self.vae.dtype)
        mean, scale = _units(own)
        in_unit_range = self.vae.decode(own * scale + mean, return_dict=False)[0]
        return (2 * in_unit_range - 1).to(torch.promote_types(in_unit_range.dtype, latents.dtype))

    @property
    def vae(self) -> Any:
        """The autoencoder of diffusers, frozen; on the meta device without weights."""
        from diffusers import AutoencoderKL

        from distill.networks.diffusers.published import VAE

        if self._vae is not None:
            return self._vae
        if self.device.type == "meta":
            with self.device:
                return AutoencoderKL(**VAE)
        try:
            # Weights in pickles are refused: opening them could run code.
            vae = AutoencoderKL.from_pretrained(self.source, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"teacher.autoencoder: {self.source} cannot be opened as an AutoencoderKL ({error})"
            ) from error
        if vae.config.latent_channels != CHANNELS or 2 ** (len(vae.config.block_out_channels) - 1) != FACTOR:
            raise UserError(
                f"teacher.autoencoder: {self.source} has other latents; expected {CHANNELS} channels for {FACTOR}x{FACTOR} pixels"
            )
        self._vae = vae.float().eval().requires_grad_(False).to(self.device)
        return self._vae


def _units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (c, 1, 1) of the autoencoder's own latents in EDM2's."""
    return x.new_tensor(MEAN)[:, None, None], x.new_tensor(DEVIATION)[:, None, None] / SIGMA_DATA
