"""NVIDIA's EDM2 networks, of pixels and of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A published EDM2 network. Its pickle is read as data; nothing in it is executed."""

    name: Literal["edm2"] = "edm2"
    path: Path
    """The pickle, or the folder that `python -m distill.teachers.convert` made of it."""

    def load(self) -> Denoiser:
        """Open the network, in evaluation mode, on the CPU."""
        from distill.network_pickle import open_network

        return open_network(self.path, "EDM2Network")

    def outline(self) -> Denoiser:
        """The network on the meta device."""
        from distill.network_pickle import outline_network

        return outline_network(self.path, "EDM2Network")
