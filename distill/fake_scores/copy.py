"""The usual fake score: it begins as the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.errors import UserError
from distill.fake_scores import FakeNetworkSettings
from distill.students.copy import learning_copy

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator


class Settings(FakeNetworkSettings):
    """A copy of the teacher, all of whose weights learn."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        """The copy. Raises UserError where the teacher has no weights."""
        if not any(True for _ in teacher.parameters()):
            raise UserError("fake.network: a copy of this teacher has no weights to train; expected mlp or exact")
        return learning_copy(teacher)
