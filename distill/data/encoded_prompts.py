"""Encode prompts when they are drawn, and cache them on disk under a hash of all that they depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.files import new_file
from distill.storage.tensors import load_sealed_tensors, save_tensors
from distill.types import Condition, PromptEncoder, Text

Encode = Callable[[Sequence[str]], Condition]
"""Function of b prompts that returns their condition, (b,)."""


class EncodedPrompts:
    """The conditions of prompts by their positions in the list, on the CPU.

    Each prompt is encoded alone, so that its condition depends on neither the batch nor the cache. `encoder`
    identifies the text encoder; runs with the same encoder can share a cache. `dropout` is the share of
    training samples that get no prompt.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        encode: Encode,
        encoder: str = "",
        cache: Path | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.prompts = prompts
        self.encode = encode
        self.encoder = encoder
        self.cache = cache
        self.dropout = dropout

    @classmethod
    def by(
        cls,
        encoder: PromptEncoder,
        prompts: Sequence[str],
        cache: Path | None = None,
        dropout: float = 0.0,
    ) -> EncodedPrompts:
        """Return the prompts as a model's prompt encoder encodes them."""
        return cls(prompts, encoder.encode, encoder.sha256(), cache, dropout)

    def __len__(self) -> int:
        return len(self.prompts)

    def __call__(self, rows: Int64[Tensor, " b"]) -> Condition:
        """Return the conditions of the prompts at these positions."""
        drawn = [self.prompts[row] for row in rows.tolist()]
        texts = {prompt: self._read(prompt) for prompt in dict.fromkeys(drawn)}
        given = {name: torch.cat([texts[prompt][name] for prompt in drawn]) for name in texts[drawn[0]]}
        return Condition(text=Text(given, self._unconditional, tuple(drawn)))

    def balanced(self, count: int) -> Condition:
        """Return the conditions of `count` samples that take the prompts in turn."""
        return self(torch.arange(count) % len(self))

    @functools.cached_property
    def _unconditional(self) -> dict[str, Tensor]:
        return self._encode("").unconditional

    def _read(self, prompt: str) -> dict[str, Tensor]:
        if self.cache is None:
            return self._encode(prompt).given
        name = hashlib.sha256(f"{self.encoder}\n{prompt}".encode()).hexdigest()
        path = self.cache / name[:2] / f"{name}.safetensors"
        if path.is_file():
            return load_sealed_tensors(path)
        given = self._encode(prompt).given
        try:
            with new_file(path) as partial:
                save_tensors(partial, given, sealed=True)
        except OSError as error:
            raise UserError(f"prompts.cache: {path} cannot be written ({error.strerror})") from error
        return given

    def _encode(self, prompt: str) -> Text:
        text = self.encode([prompt]).to("cpu").text
        if text is None:
            raise ValueError("a prompt's condition is expected to hold text")
        return text
