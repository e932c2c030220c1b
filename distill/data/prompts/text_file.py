"""Prompts in a text file, one a line; blank lines do not count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.text_files import split_lines
from distill.data.prompts import PromptSettings, read_prompts

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """A text file, one prompt a line."""

    name: Literal["text_file"] = "text_file"
    path: Path
    """The file."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts. Raises UserError where there are none."""
        return [line.strip() for line in split_lines(read_prompts(self.path)) if line.strip()]
