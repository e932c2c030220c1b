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


def alternatives(teacher: Denoiser) -> dict[str, tuple[StudentSettings, FakeNetworkSettings]]:
    """Return the architectures between which a run with this teacher can choose, by name, for student and fake score.

    They differ in what is trained, and so in memory. There are none where the teacher takes no adapters.
    """
    from distill.networks.diffusers.denoiser import DiffusersNetwork
    from distill.students import copy, lora

    if not isinstance(teacher, DiffusersNetwork):
        return {}
    return {
        "all weights": (copy.Student(), copy.FakeScore()),
        "LoRA": (lora.Student(), lora.FakeScore()),
    }
