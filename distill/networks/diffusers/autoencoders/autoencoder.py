"""An `AutoencoderKL` of diffusers in training: built from its configuration, saved as diffusers opens it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError, reading
from distill.networks.diffusers.meta import without_weights
from distill.networks.diffusers.parts import build_from_configuration, copy_pretrained
from distill.networks.folder import CONFIG, EXPORT, WEIGHTS, newest_checkpoint
from distill.storage.tensors import load_weights
from distill.types import ImageModel

KIND = "AutoencoderKL"
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
"""Blocks of every published `AutoencoderKL`, as many as `block_out_channels` has entries."""


class Autoencoder(ImageModel):
    """An `AutoencoderKL` with weights in training (Rombach et al. 2022)."""

    label_count = 0
    takes_reduced_weights = True

    def __init__(self, vae: Any, resolution: int) -> None:
        super().__init__()
        self.vae = vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_shape = (vae.config.in_channels, resolution, resolution)
        self.latent_shape = (vae.config.latent_channels, resolution // factor, resolution // factor)

    @classmethod
    def build(
        cls,
        configuration: dict[str, Any],
        image_shape: tuple[int, ...],
        seed: int = 0,
        on_meta: bool = False,
    ) -> Autoencoder:
        """Build an untrained autoencoder of images of this shape, with weights drawn by `seed`.

        Settings that the images or other settings decide may be left out: numbers of channels, sizes and
        types of blocks.
        """
        channels, height, width = image_shape
        if height != width:
            raise UserError(f"data: images of {height}x{width}; expected square ones")
        filled = _fill(configuration, channels, height)
        with without_weights():
            described = cls(_build_vae(filled), height)
        described._check_pass()
        if on_meta:
            return described
        torch.manual_seed(seed)
        return cls(_build_vae(filled), height)

    def forward(
        self, images: Float[Tensor, "b c h w"], eps: Float[Tensor, "b ..."]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
        """Encode images, draw latents by unit noise (b, *latent_shape), and decode them.

        Returns the reconstructions, and the KL divergence of each image's latents from N(0, I), in nats.
        """
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        mean, std = posterior.mean.to(images.dtype), posterior.std.to(images.dtype)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum((1, 2, 3))
        return self._decode(mean + std * eps, images), kl

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Encode images as the means of their latents, and decode them."""
        return self._decode(self.latents(images), images)

    def latents(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Return the means of images' latents, not scaled."""
        return self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode().to(images.dtype)

    def save_pretrained(self, folder: Path, scaling_factor: float) -> None:
        """Write the autoencoder as diffusers opens it, with the factor that gives latents unit variance."""
        vae = copy.copy(self.vae)
        vae.register_to_config(scaling_factor=scaling_factor)
        vae.save_pretrained(folder)

    def describe(self) -> dict[str, Any]:
        """Return its configuration in diffusers as plain data."""
        return json.loads(self.vae.to_json_string())

    def start_from(self, source: Path) -> None:
        """Take the weights of another autoencoder of the same sizes.

        `source` is a run, finished or not, one of its checkpoints, an `AutoencoderKL` of diffusers or a
        pipeline that holds one.
        """
        checkpoint = newest_checkpoint(source) or source
        if not (source / EXPORT).is_dir() and (checkpoint / WEIGHTS).is_file():
            load_weights(self, checkpoint / WEIGHTS)
            return
        folder = find_start(source)
        other = "an autoencoder of other sizes than network describes"
        copy_pretrained(self.vae, folder, f"init_from: {source}", other)

    def _check_pass(self) -> None:
        """Refuse settings that do not go together, by a pass of one image on the meta device."""
        images = torch.zeros(1, *self.image_shape, device="meta")
        eps = torch.zeros(1, *self.latent_shape, device="meta")
        with reading("network"), torch.no_grad():
            decoded, _ = self(images, eps)
        if decoded.shape != images.shape:
            raise UserError(
                f"network: gives images of {tuple(decoded.shape[1:])}; "
                f"expected {self.image_shape}, as the data have"
            )

    def _decode(self, latents: Tensor, images: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].to(images.dtype)


def find_start(source: Path) -> Path:
    """Return the folder of the autoencoder that another is to start from."""
    places = [source / EXPORT, source / "vae", source, newest_checkpoint(source) or source]
    found = next((place for place in places if (place / CONFIG).is_file()), None)
    if found is None:
        raise UserError(
            f"init_from: {source} holds no autoencoder; expected a run that trains one, or a folder of "
            f"{KIND} of diffusers"
        )
    return found


def _fill(configuration: dict[str, Any], channels: int, resolution: int) -> dict[str, Any]:
    """Add the settings that follow from others and from the images, and refuse those that contradict them."""
    decided = {"in_channels": channels, "out_channels": channels, "sample_size": resolution}
    for name, value in decided.items():
        if configuration.get(name, value) != value:
            raise UserError(f"network.{name}: is {configuration[name]}; expected {value}, as the images have")
    if "scaling_factor" in configuration:
        raise UserError("network.scaling_factor: is measured after training; expected none")
    if configuration.get("class_name", KIND) != KIND:
        raise UserError(f"network.class_name: is {configuration['class_name']}; expected {KIND}, or none")
    if configuration.get("latent_channels", 1) == 0:
        raise UserError("network.latent_channels: is 0; expected at least 1")
    levels = configuration.get("block_out_channels", ())
    if not isinstance(levels, (list, tuple)) or not levels:
        raise UserError("network.block_out_channels: expected channels of each level, such as [32, 64, 128]")
    factor = 2 ** (len(levels) - 1)
    if resolution % factor:
        raise UserError(
            f"network.block_out_channels: {len(levels)} levels make latents {factor} times smaller; "
            f"expected a factor that divides the images' {resolution} pixels"
        )
    blocks = {name: [block] * len(levels) for name, block in BLOCKS.items()}
    return {**decided, **blocks, **configuration}


def _build_vae(configuration: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKL

    return build_from_configuration(AutoencoderKL, configuration, "network")
