"""NVIDIA's EDM2 networks, of pixels and of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A published EDM2 network. Its pickle is read as data; nothing in it is executed."""

    name: Literal["edm2"] = "edm2"
    path: Path
    """The pickle, a file of `torch.save`, or the folder that `python -m distill convert` made of it."""
    autoencoder: str | None = None
    """Folder or hub name of the autoencoder of a network of latents; null takes Stability's, stabilityai/sd-vae-ft-mse."""

    def load(self) -> Denoiser:
        """Open the network, in evaluation mode, on the CPU; its autoencoder is opened when it is first needed."""
        from distill.networks.edm.published import open_network

        return self._with_autoencoder(open_network(self.path, "EDM2Network"))

    def meta(self) -> Denoiser:
        """The network on the meta device."""
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
