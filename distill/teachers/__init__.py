"""Teachers: one file for each way to open a pretrained network; the file's name is its name in the config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError
from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser


class TeacherSettings(Settings):
    """Settings of a teacher."""

    @property
    def is_quantized(self) -> bool:
        """True if the teacher's weights are quantised, as far as can be told before it is opened."""
        return False

    def at_resolution(self, resolution: int | None) -> TeacherSettings:
        """Return these settings with the `--resolution` of a command, in pixels; None changes nothing."""
        if resolution is None:
            return self
        if "resolution" not in type(self).model_fields:
            name = type(self).model_fields["name"].default
            raise UserError(
                f"--resolution {resolution}: teachers of '{name}' make images of one size; leave it out"
            )
        return self.model_copy(update={"resolution": resolution})

    def load(self) -> Denoiser:
        """Open the teacher in evaluation mode, on the CPU."""
        raise TypeError(f"{type(self).__name__} is not a teacher")

    def describe_encoder(self, teacher: Denoiser) -> dict[str, Any]:
        """Return all that the opened teacher's encodings of prompts depend on, as plain data."""
        raise UserError("prompts: are precomputed for a pipeline of diffusers as teacher only")

    def load_with_prompts(self, folder: Path) -> Denoiser:
        """Open the teacher without text encoders, whose work is in a folder of `precompute`."""
        raise UserError("prompts.precomputed: goes with a pipeline as teacher; expected null")

    def meta(self) -> Denoiser:
        """Build the teacher on the meta device, for a dry run: its shapes without its weights."""
        return self.load().to("meta")

    def known_before_loading(self) -> Denoiser | None:
        """Build the teacher as `meta` does if its files here describe it in a moment; None if they do not.

        What a run asks of its teacher is checked with it before gigabytes of weights are read.
        """
        return None

    def load_without_weights(self, min_component_parameters: int, prompts: Path | None = None) -> Denoiser:
        """Open the teacher as `load` does, with its weights on the meta device, in evaluation mode.

        With `prompts` it is opened as `load_with_prompts` does. On the meta device are also those of its text
        encoders and autoencoder that have at least so many parameters.
        """
        return self.meta().eval()
