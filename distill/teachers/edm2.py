"""NVIDIA's EDM2 networks (Karras et al. 2024), of pixels or of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A published EDM2 network. Its pickle is read as data, and no code in it is executed."""

    name: Literal["edm2"] = "edm2"
    path: Path
    """The published pickle, a file of `torch.save`, or a folder that `python -m distill convert` wrote."""
    autoencoder: str | None = None
    """Folder of the autoencoder of a latent network, or its name on the Hugging Face hub. null takes the one
    that EDM2's networks were trained with, stabilityai/sd-vae-ft-mse."""

    def load(self) -> Denoiser:
        """Open the network in evaluation mode, on the CPU; its autoencoder is opened when first used."""
        from distill.networks.edm.published import open_network

        return self._with_autoencoder(open_network(self.path, "EDM2Network"))

    def meta(self) -> Denoiser:
        """Build the network on the meta device."""
        from distill.networks.edm.published import meta_network

        return self._with_autoencoder(meta_network(self.path, "EDM2Network"))

    def _with_autoencoder(self, network: Denoiser) -> Denoiser:
        from distill.networks.edm.autoencoder import StabilityAutoencoder
        from distill.networks.edm.edm2 import EDM2Network

        assert isinstance(network, EDM2Network)
        if self.autoencoder is not None:
            if network.codec is None:
                raise UserError(
                    f"teacher.autoencoder: is {self.autoencoder}; expected null: {self.path} is of pixels"
                )
            network.codec = StabilityAutoencoder(self.autoencoder)
        return network
