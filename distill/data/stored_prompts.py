"""Encodings of prompts that were computed before training, in place of the text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill.config.errors import UserError, did_you_mean
from distill.data.stored_inputs import PROMPTS, open_inputs, refuse_others
from distill.storage.files import read_json
from distill.storage.tensors import load_sealed_tensors
from distill.types import Condition, Text

if TYPE_CHECKING:
    from torch import nn

KEY = "prompts.precomputed"
TEXTS, UNCONDITIONAL = "texts.json", "unconditional.safetensors"
"""Files of the prompts in the order of their rows, and of the encoding of no prompt."""


class StoredPrompts:
    """A `PromptEncoder` of the prompts in a folder, and of no prompt; others are refused.

    `encoder` describes the text encoders of the model that reads the encodings.
    """

    def __init__(self, folder: Path, encoder: Mapping[str, Any]) -> None:
        self.folder = folder / PROMPTS
        self.description, self.shards = open_inputs(
            self.folder, KEY, {"encoder": dict, "encoder_sha256": str}
        )
        refuse_others(self.description["encoder"], encoder, KEY, self.folder)
        texts = read_json(self.folder / TEXTS)
        if not isinstance(texts, list) or len(texts) != self.shards.count:
            raise UserError(f"{KEY}: {self.folder / TEXTS} is no list of {self.shards.count} prompts")
        self._rows = {text: row for row, text in enumerate(texts)}
        self._unconditional = load_sealed_tensors(self.folder / UNCONDITIONAL)

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredPrompts:
        """Copies of a network share their prompts."""
        return self

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Read the encodings of prompts, and of no prompt, in float32 on the CPU."""
        rows = [self._read(prompt) for prompt in prompts]
        given = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return Condition(text=Text(given, self._unconditional, tuple(prompts)))

    def unconditional(self, count: int) -> Text:
        """Return the encoding of no prompt, (count, ...)."""
        given = {name: value.expand(count, *value.shape[1:]) for name, value in self._unconditional.items()}
        return Text(given, self._unconditional)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one encoded prompt."""
        return {name: tuple(value.shape[1:]) for name, value in self.shards.row(0).items()}

    def sha256(self) -> str:
        """Return the hash of the text encoders, which is that of a model that holds them."""
        return str(self.description["encoder_sha256"])

    def components(self) -> dict[str, nn.Module]:
        """Return nothing: no network is held."""
        return {}

    def _read(self, prompt: str) -> dict[str, torch.Tensor]:
        if prompt in self._rows:
            return self.shards.row(self._rows[prompt])
        if prompt == "":
            return self._unconditional
        raise UserError(
            f"{KEY}: {self.folder} has no prompt '{prompt:.60}'{did_you_mean(prompt, self._rows)}"
        )
