"""Stability's autoencoder, which makes the latents of EDM2's networks.

EDM2 scales them to a mean of about 0 and a standard deviation of about 0.5 in each channel. It gives the
autoencoder images in [0, 1], though it was trained on [-1, 1], and takes its output as [0, 1]
(`StabilityVAEEncoder` in the published `training/encoders.py`). The networks learned these latents; decoding
them to [-1, 1] would show other images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.diffusion.constants import constant
from distill.networks.folder import AUTOENCODER

PUBLISHED = "stabilityai/sd-vae-ft-mse"
CHANNELS, FACTOR = 4, 8
"""Channels of the latents, and pixels to one side of a latent."""
MEAN = (5.81, 3.25, 0.12, -2.15)
STD = (4.17, 4.62, 3.71, 3.28)
"""Statistics of the autoencoder's latents of ImageNet, by channel (the published `training/encoders.py`)."""
SIGMA_DATA = 0.5


class StabilityAutoencoder:
    """The `ImageCodec` between images in [-1, 1] and EDM2's latents.

    `source` is a folder or a name on the hub. It is opened when it is first needed, once for all copies.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.device = torch.device("cpu")
        self._vae: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StabilityAutoencoder:
        return self

    def to(self, device: torch.device) -> None:
        self.device = device
        if self._vae is None:
            return
        if any(parameter.is_meta for parameter in self._vae.parameters()) and device.type != "meta":
            self._vae = None  # to be opened there
        else:
            self._vae.to(device)

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (3, *(FACTOR * side for side in latent_shape[1:]))

    def components(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.vae}

    def components_to_bundle(self) -> dict[str, nn.Module]:
        """Return the autoencoder if it lies on this machine only, so that an export must carry it."""
        return {AUTOENCODER: self.vae} if Path(self.source).is_dir() else {}

    def use(self, vae: Any) -> None:
        """Use this `AutoencoderKL` instead of opening the source."""
        self._vae = vae.requires_grad_(False)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 _ _"]:
        """Encode images in [-1, 1] as the means of their latents, in the type of the images."""
        own = images.to(self.vae.dtype)
        mean, scale = _statistics(own)
        latents = self.vae.encode((own + 1) / 2).latent_dist.mode()
        return ((latents - mean) / scale).to(images.dtype)

    def decode(self, latents: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 _ _"]:
        """Decode latents to images in [-1, 1] up to overshoot.

        Their type is the autoencoder's or that of the latents, whichever is wider.
        """
        own = latents.to(self.vae.dtype)
        mean, scale = _statistics(own)
        in_unit_range = self.vae.decode(own * scale + mean, return_dict=False)[0]
        return (2 * in_unit_range - 1).to(torch.promote_types(in_unit_range.dtype, latents.dtype))

    @property
    def vae(self) -> Any:
        """Return the autoencoder of diffusers, frozen; on the meta device it has no weights."""
        if self._vae is not None:
            return self._vae
        vae = self._build_meta() if self.device.type == "meta" else self._open().float()
        self._vae = vae.eval().requires_grad_(False).to(self.device)
        return self._vae

    def _build_meta(self) -> Any:
        """Build it without weights: as its folder describes it, or in the published sizes."""
        from diffusers import AutoencoderKL

        from distill.networks.diffusers.opening.published.earlier import VAE

        with self.device:
            if not Path(self.source).is_dir():
                return AutoencoderKL(**VAE)
            with self._opening():
                return AutoencoderKL.from_config(AutoencoderKL.load_config(self.source))

    def _open(self) -> Any:
        from diffusers import AutoencoderKL

        with self._opening():
            # Weights in pickles are refused: opening them could run code.
            vae = AutoencoderKL.from_pretrained(self.source, use_safetensors=True)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if vae.config.latent_channels != CHANNELS or factor != FACTOR:
            raise UserError(
                f"teacher.autoencoder: {self.source} has other latents; "
                f"expected {CHANNELS} channels for {FACTOR}x{FACTOR} pixels"
            )
        return vae

    @contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"teacher.autoencoder: {self.source} cannot be opened as an AutoencoderKL ({error})"
            ) from error


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and scale, (c, 1, 1) each: EDM2's latents are (the autoencoder's - mean) / scale."""
    mean, std = constant(MEAN, x)[:, None, None], constant(STD, x)[:, None, None]
    return mean, std / SIGMA_DATA
