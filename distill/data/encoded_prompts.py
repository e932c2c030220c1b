"""Encode prompts when they are drawn, and cache them on disk under a hash of all that they depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import writing_to
from distill.storage.files import new_file
from distill.storage.tensors import load_sealed_tensors, save_tensors
from distill.types import Condition, PromptEncoder, Text

MAX_HELD = 1 << 30
"""Bytes of encoded prompts that are held in memory; further ones are encoded, or read, each time."""

Encode = Callable[[Sequence[str]], Condition]
"""Function of b prompts that returns their condition, (b,)."""


class EncodedPrompts:
    """The conditions of prompts by their positions in the list, on the CPU.

    Each prompt is encoded alone, so that its condition depends on neither the batch nor the cache. `encoder`
    identifies the text encoder; runs with the same encoder can share a cache. What is encoded stays in memory
    too, up to `MAX_HELD`. `dropout` is the share of
    training samples that get no prompt. An encoder that is sharded encodes on all processes at once: `most`
    then returns the largest of the processes' counts, and each encodes so many prompts. All processes ask for
    prompts equally often.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        encode: Encode,
        encoder: str = "",
        cache: Path | None = None,
        dropout: float = 0.0,
        most: Callable[[int], int] | None = None,
    ) -> None:
        self.prompts = prompts
        self.encode = encode
        self.encoder = encoder
        self.cache = cache
        self.dropout = dropout
        self.most = most
        self._held: dict[str, dict[str, Tensor]] = {}
        self._held_bytes = 0

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
        texts = self._read(list(dict.fromkeys(drawn)))
        given = {name: torch.cat([texts[prompt][name] for prompt in drawn]) for name in texts[drawn[0]]}
        return Condition(text=Text(given, self._unconditional, tuple(drawn)))

    def balanced(self, count: int) -> Condition:
        """Return the conditions of `count` samples that take the prompts in turn."""
        return self(torch.arange(count) % len(self))

    @functools.cached_property
    def _unconditional(self) -> dict[str, Tensor]:
        return self._encode("").unconditional

    def _read(self, prompts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return what each prompt is encoded as, from memory, the cache or the encoder."""
        texts = {prompt: self._held[prompt] for prompt in prompts if prompt in self._held}
        others = [prompt for prompt in prompts if prompt not in texts]
        cached = {prompt: path for prompt in others if (path := self._path_of(prompt)) and path.is_file()}
        absent = [prompt for prompt in others if prompt not in cached]
        repeated = 0 if self.most is None else self.most(len(absent)) - len(absent)
        texts |= {prompt: load_sealed_tensors(path) for prompt, path in cached.items()}
        for prompt in absent:
            texts[prompt] = self._encode(prompt).given
            self._store(prompt, texts[prompt])
        for _ in range(repeated):
            self._encode("")
        for prompt in others:
            self._hold(prompt, texts[prompt])
        return texts

    def _hold(self, prompt: str, given: dict[str, Tensor]) -> None:
        """Keep what a prompt is encoded as in memory, unless too much is there."""
        size = sum(value.nbytes for value in given.values())
        if self._held_bytes + size <= MAX_HELD:
            self._held[prompt] = given
            self._held_bytes += size

    def _path_of(self, prompt: str) -> Path | None:
        """Return the file of a prompt in the cache, None without a cache."""
        if self.cache is None:
            return None
        name = hashlib.sha256(f"{self.encoder}\n{prompt}".encode()).hexdigest()
        return self.cache / name[:2] / f"{name}.safetensors"

    def _store(self, prompt: str, given: dict[str, Tensor]) -> None:
        """Write what a prompt is encoded as; several processes may write the same file, each a whole one."""
        path = self._path_of(prompt)
        if path is None:
            return
        with writing_to(f"prompts.cache: {path}"), new_file(path) as partial:
            save_tensors(partial, given, sealed=True)

    def _encode(self, prompt: str) -> Text:
        text = self.encode([prompt]).to("cpu").text
        if text is None:
            raise ValueError("a prompt's condition is expected to hold text")
        return text
