"""Sources of prompts, one file each; the file's name is its name in the config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.config.text_files import read_text

if TYPE_CHECKING:
    from distill.types import DataSource


class PromptSettings(Settings):
    """Settings of a source of prompts. `load` reads them all."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the training's samples that see no prompt instead of theirs."""
    cache: Path | None = None
    """Folder that keeps each encoded prompt, which other runs may share; null encodes a prompt anew whenever it is drawn."""

    def load(self, data: DataSource | None) -> list[str]:
        """The prompts, at least one; `data` are the run's images. Raises UserError where there are none."""
        raise TypeError(f"{type(self).__name__} is not a source of prompts")


def read_prompts(path: Path) -> str:
    """The text of a file of prompts. Raises UserError where it cannot be read, is not UTF-8, or is blank."""
    text = read_text(path, f"prompts.path: {path}")
    if not text.strip():
        raise UserError(f"prompts.path: {path} holds no prompt")
    return text
