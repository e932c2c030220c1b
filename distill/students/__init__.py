"""Architectures of student and fake score, one file each; the file's name is its name in the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator


class StudentSettings(Settings):
    """Settings of a student's network."""

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> Generator:
        """Make the initial student, with one step for each sigma/alpha at which it is entered."""
        raise TypeError(f"{type(self).__name__} is not a student")


class FakeNetworkSettings(Settings):
    """Settings of a fake score's network."""

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        """Make the initial fake score of a student."""
        raise TypeError(f"{type(self).__name__} is not a fake score")
