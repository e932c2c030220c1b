"""Architectures of the student and of the fake score, one file each; the file's name is its name in the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator


class StudentSettings(Settings):
    """Settings of a student. `build` makes one that has not learnt anything from the student's side yet, entered at one sigma/alpha in each step."""

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> Generator:
        raise TypeError(f"{type(self).__name__} is not a student")


class FakeNetworkSettings(Settings):
    """Settings of a fake score's network. `build` makes it for a teacher and a student."""

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        raise TypeError(f"{type(self).__name__} is not a fake score")
