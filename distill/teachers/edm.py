"""NVIDIA's EDM networks: DDPM++, NCSN++ and ADM with the preconditionings EDM, VP, VE and iDDPM; SiD's, SiDA's and Uni-Instruct's are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.types import Denoiser


class Settings(TeacherSettings):
    """A published EDM network. Its pickle is read as data; nothing in it is executed."""

    name: Literal["edm"] = "edm"
    path: Path
    """The pickle, a file of `torch.save`, or the folder that `python -m distill convert` made of it."""

    def load(self) -> Denoiser:
        """Open the network, in evaluation mode, on the CPU."""
        from distill.networks.edm.published import open_network

        return open_network(self.path, "EDMNetwork")

    def meta(self) -> Denoiser:
        """The network on the meta device; of a file that NVIDIA published for EDM, the file itself may be absent."""
        from distill.networks.edm.published import meta_network

        return meta_network(self.path, "EDMNetwork")
