"""Prompts in a text file, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.text_files import split_lines
from distill.data.prompts import PromptSettings, read_prompts

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """Prompts in a text file, one a line."""

    name: Literal["text_file"] = "text_file"
    path: Path
    """The text file, encoded as UTF-8. Blank lines are skipped, and spaces around a prompt are removed."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts."""
        return [line.strip() for line in split_lines(read_prompts(self.path)) if line.strip()]
