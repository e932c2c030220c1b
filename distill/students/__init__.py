"""Architectures of student and fake score, one file each; the file's name is its name in the config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator


@runtime_checkable
class RunOfStudent(Protocol):
    """The settings of a run that decide whether a student can be part of it."""

    @property
    def student_steps(self) -> int:
        """Network evaluations of the student."""
        ...

    @property
    def needs_pairs(self) -> bool:
        """A term compares the student with the teacher's samples from the same noise."""
        ...

    @property
    def is_sharded(self) -> bool: ...
    @property
    def shows_data(self) -> bool:
        """A discriminator sees real images of the data."""
        ...

    @property
    def sample_count(self) -> int | None:
        """Number of the teacher's samples that are stored, None if none are."""
        ...

    @property
    def prompt_source(self) -> str | None:
        """Name of the source of prompts, None if there is none."""
        ...


class StudentSettings(Settings):
    """Settings of a student's network."""

    def check(self, run: RunOfStudent) -> None:
        """Raise ValueError if a run with these settings cannot have this student."""

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> Generator:
        """Make the initial student, with one step for each sigma/alpha at which it is entered."""
        raise TypeError(f"{type(self).__name__} is not a student")


class FakeNetworkSettings(Settings):
    """Settings of a fake score's network."""

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        """Make the initial fake score of a student."""
        raise TypeError(f"{type(self).__name__} is not a fake score")
