"""Prompts in webdataset's shards: in text files, or in JSON files, of one `.tar` or a folder of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.config.text_files import decode_text
from distill.data.prompts import PromptSettings

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """Prompts in the `.txt` or `.json` files of webdataset's `.tar` files; images in them are not read."""

    name: Literal["webdataset"] = "webdataset"
    path: Path
    """A `.tar` file, or a folder of `.tar` files."""
    key: str | None = None
    """Key of the prompt in each `.json` file. null, the default, reads the `.txt` files instead, whose whole
    text is a prompt."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts that are not blank, in the order of the files' names."""
        from distill.data.archives import open_files

        ending = ".txt" if self.key is None else ".json"
        if self.path.is_dir() and not any(self.path.glob("*.tar")):
            raise UserError(
                f"prompts.path: {self.path} holds no .tar; expected a folder of webdataset's shards"
            )
        with open_files(self.path) as files:
            names = sorted(name for name in files.stamps() if name.endswith(ending))
            prompts = [self._read(files.read(name), name) for name in names]
        found = [prompt.strip() for prompt in prompts if prompt.strip()]
        if not found:
            raise UserError(f"prompts.path: {self.path} holds no prompt; expected {ending} files in it")
        return found

    def _read(self, content: bytes, name: str) -> str:
        place = f"prompts.path: {self.path}, {name}"
        text = decode_text(content, place)
        try:
            prompt = text if self.key is None else json.loads(text)[self.key]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{place}: expected a JSON object with '{self.key}'") from error
        if not isinstance(prompt, str):
            raise UserError(f"{place}: '{self.key}' is {prompt!r}; expected text")
        return prompt
