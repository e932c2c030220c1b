"""A stream of images drawn from their seeds, for tests of what reads streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.images.streams import prompts_sha256


class Drawn:
    """Images of a generator that counts how often it makes each, by seed."""

    origin = "the generator"
    label_count = 0
    classes: tuple[str, ...] = ()

    def __init__(
        self, count: int, first_seed: int = 0, made: Counter[int] | None = None, prompts: Sequence[str] = ()
    ) -> None:
        self.count = count
        self.prompts = list(prompts)
        self.first_seed: int | None = first_seed
        self.made: Counter[int] = Counter() if made is None else made

    def __len__(self) -> int:
        return self.count

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"kind": "drawn", "first_seed": self.first_seed}
        if self.prompts:
            described |= {"prompts": len(self.prompts), "prompts_sha256": prompts_sha256(self.prompts)}
        return described

    def name(self, row: int) -> str:
        return f"image {row}"

    def stamp(self, row: int) -> str:
        return str(row)

    def label(self, row: int) -> int:
        raise AssertionError

    def read(self, rows: Sequence[int]) -> Iterator[Tensor | UserError]:
        for row in rows:
            seed = (self.first_seed or 0) + row
            self.made[seed] += 1
            generator = torch.Generator().manual_seed(seed)
            yield torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator)
