"""Prompts in a JSONL file: one JSON object a line, the prompt under a key of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.errors import UserError
from distill.prompts import PromptSettings, read_lines

if TYPE_CHECKING:
    from distill.data import DataSource


class Settings(PromptSettings):
    """A file of JSON objects, one a line."""

    name: Literal["jsonl"] = "jsonl"
    path: Path
    """The file."""
    key: str = "text"
    """The prompt's key in each object."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts. Raises UserError, naming the line, where one is no such object."""
        return [self._read(line, number) for number, line in enumerate(read_lines(self.path), start=1) if line.strip()]

    def _read(self, line: str, number: int) -> str:
        try:
            prompt = json.loads(line)[self.key]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"prompts.path: {self.path}, line {number}: expected a JSON object with '{self.key}'") from error
        if not isinstance(prompt, str):
            raise UserError(f"prompts.path: {self.path}, line {number}: '{self.key}' is {prompt!r}; expected text")
        return prompt
