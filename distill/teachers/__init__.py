"""Teachers: one file for each way to open a pretrained network; the file's name is its name in the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser


class TeacherSettings(Settings):
    """Settings of a teacher."""

    @property
    def is_quantized(self) -> bool:
        """True if the teacher's weights are quantised, as far as can be told before it is opened."""
        return False

    def load(self) -> Denoiser:
        """Open the teacher in evaluation mode, on the CPU."""
        raise TypeError(f"{type(self).__name__} is not a teacher")

    def meta(self) -> Denoiser:
        """Build the teacher on the meta device, for a dry run: its shapes without its weights."""
        return self.load().to("meta")

    def load_without_weights(self, min_component_parameters: int) -> Denoiser:
        """Open the teacher as `load` does, with its weights on the meta device, in evaluation mode.

        So are those of its text encoders and autoencoder that have at least so many parameters.
        """
        return self.meta().eval()
