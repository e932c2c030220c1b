"""Sources of prompts. Each file is one source, and its name is the source's name in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.config.text_files import read_text

if TYPE_CHECKING:
    from distill.types import DataSource


class PromptSettings(Settings):
    """Settings of a source of prompts."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of training samples that get an empty prompt instead of their own, at least 0 and below 1. The
    default, 0, always uses the prompt. A share such as 0.1 also teaches the student and the fake score to do
    without a prompt, which guidance of the fake score needs."""
    cache: Path | None = None
    """Folder that keeps every encoded prompt, so that each is encoded once; several runs may share it. A
    prompt takes 230 kB for Stable Diffusion 1.5 and 630 kB for SDXL. null, the default, keeps nothing on disk
    and encodes a prompt each time it is drawn."""

    precomputed: Path | None = None
    """Folder that `python -m distill precompute` wrote with these prompts. They are read from there, and the
    text encoders are not loaded at all. It belongs to one teacher, and another is refused. null, the
    default, encodes the prompts."""

    @model_validator(mode="after")
    def _have_one_store(self) -> PromptSettings:
        if self.cache is not None and self.precomputed is not None:
            raise ValueError("cache: goes without precomputed; expected one of them")
        return self

    def load(self, data: DataSource | None) -> list[str]:
        """Read all prompts, at least one; `data` are the run's images."""
        raise TypeError(f"{type(self).__name__} is not a source of prompts")


def read_prompts(path: Path) -> str:
    """Read the text of a file of prompts; a blank file is refused."""
    text = read_text(path, f"prompts.path: {path}")
    if not text.strip():
        raise UserError(f"prompts.path: {path} holds no prompt")
    return text
