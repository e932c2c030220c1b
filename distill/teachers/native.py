"""Teachers trained with this project: a folder of `config.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A network of our own, such as a teacher run of `train.py` leaves in its `export` folder."""

    name: Literal["native"] = "native"
    path: Path
    """Folder that holds `config.json` and `model.safetensors`."""

    def load(self) -> Denoiser:
        """Open the network, in evaluation mode, on the CPU."""
        from distill.networks.folder import load_denoiser

        return load_denoiser(self.path).eval()

    def meta(self) -> Denoiser:
        """The network that `config.json` describes."""
        from distill.networks.folder import meta_denoiser

        return meta_denoiser(self.path).eval()
