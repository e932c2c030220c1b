"""Sources of prompts, one file each; the file's name is its name in the config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from distill.errors import UserError
from distill.registry import Settings

if TYPE_CHECKING:
    from distill.data import DataSource


class PromptSettings(Settings):
    """Settings of a source of prompts. `load` reads them all."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the training's samples that see no prompt instead of theirs."""
    cache: Path | None = None
    """Folder that keeps each encoded prompt, which other runs may share; null encodes a prompt anew whenever it is drawn."""

    def load(self, data: DataSource | None) -> list[str]:
        """The prompts, at least one; `data` are the run's images. Raises UserError where there are none."""
        raise TypeError(f"{type(self).__name__} is not a source of prompts")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises UserError where it cannot be read or has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise UserError(f"prompts.path: {path} cannot be read ({reason})") from error
    if not any(line.strip() for line in lines):
        raise UserError(f"prompts.path: {path} holds no prompt")
    return lines
