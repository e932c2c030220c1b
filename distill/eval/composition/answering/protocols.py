"""What answers questions about an image, and what reads its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

YES = "yes"
"""The answer that counts."""


@runtime_checkable
class Answerer(Protocol):
    """Answers questions about an image."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides an answer except image and question, as plain data."""
        ...

    def answer(self, image: UInt8[Tensor, "3 h w"], questions: Sequence[str]) -> list[str]:
        """Return the answer to each question, in lower case."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Reads the text in an image."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what is read except the image, as plain data."""
        ...

    def read(self, image: UInt8[Tensor, "3 h w"]) -> str:
        """Return the text in an image."""
        ...
