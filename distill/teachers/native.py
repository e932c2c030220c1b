"""Networks trained with this project: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A network trained with this project: a `train_teacher` run."""

    name: Literal["native"] = "native"
    path: Path
    """Folder of the run, of one of its checkpoints, or of its export."""

    def load(self) -> Denoiser:
        """Open the network in evaluation mode, on the CPU."""
        from distill.networks.folder import load_denoiser

        return load_denoiser(self.path).eval()

    def known_before_loading(self) -> Denoiser | None:
        """Build the network that `config.json` describes, None for a pipeline with further networks."""
        from distill.networks.folder import CONFIGURED, read_description, resolve_folder

        description = read_description(resolve_folder(self.path), "denoiser")
        return None if description["network"]["class"] == CONFIGURED else self.meta()

    def meta(self) -> Denoiser:
        """Build the network that `config.json` describes, on the meta device."""
        from distill.networks.folder import meta_denoiser

        return meta_denoiser(self.path).eval()
