"""Prompts in a JSON Lines file: one JSON object a line, with the prompt under one of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.config.errors import UserError, did_you_mean
from distill.config.text_files import is_text, json_lines
from distill.data.prompts import PromptSettings, read_prompts

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """Prompts in a JSON Lines file, one JSON object a line."""

    name: Literal["jsonl"] = "jsonl"
    path: Path
    """The JSON Lines file, encoded as UTF-8. Blank lines are skipped."""
    key: str = "text"
    """Key of the prompt in each object, as in `{"text": "a photo of a cat"}`. Other keys are ignored."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts; a line without one is refused."""
        expected = f"expected a JSON object with '{self.key}'"
        objects = json_lines(read_prompts(self.path), f"prompts.path: {self.path}", expected)
        return [self._read(entry, place, expected) for place, entry in objects]

    def _read(self, entry: dict[str, Any], place: str, expected: str) -> str:
        if self.key not in entry:
            raise UserError(f"{place}: {expected}{did_you_mean(self.key, entry)}")
        prompt = entry[self.key]
        if not is_text(prompt):
            raise UserError(f"{place}: '{self.key}' is {prompt!r}; expected text")
        return prompt
