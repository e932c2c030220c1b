"""Backends that open a pretrained teacher, one file each; the file's name is its name in the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser


class TeacherSettings(Settings):
    """Settings of a teacher backend. `load` opens it; `meta` builds it on the meta device, without its weights."""

    def load(self) -> Denoiser:
        raise TypeError(f"{type(self).__name__} is not a teacher")

    def meta(self) -> Denoiser:
        return self.load().to("meta")
