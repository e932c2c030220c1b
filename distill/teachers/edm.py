"""NVIDIA's EDM networks (Karras et al. 2022).

They are DDPM++, NCSN++ and ADM with EDM, VP, VE or iDDPM preconditioning. SiD, SiDA and Uni-Instruct publish
networks of the same classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A published EDM network. Its pickle is read as data, and no code in it is executed."""

    name: Literal["edm"] = "edm"
    path: Path
    """The published pickle, a file of `torch.save`, or a folder that `python -m distill convert` wrote."""

    def load(self) -> Denoiser:
        """Open the network in evaluation mode, on the CPU."""
        from distill.networks.edm.published import open_network

        return open_network(self.path, "EDMNetwork")

    def meta(self) -> Denoiser:
        """Build the network on the meta device; a file that NVIDIA published may be absent."""
        from distill.networks.edm.published import meta_network

        return meta_network(self.path, "EDMNetwork")
