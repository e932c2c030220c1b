"""Prompts of the images that `python -m eval fid` measures, and whether they are those of a protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.data.prompts import text_file
from distill.eval.images.streams import ImageStream, prompts_sha256
from distill.eval.prompt_sets import PromptSet, read_prompt_set
from distill.eval.protocols import Protocol

LISTS = (".json", ".jsonl", ".tsv", ".csv", ".parquet")
"""Endings of files of benchmarks' prompts; any other file is text, one prompt a line."""


def is_benchmark(path: Path | None) -> bool:
    """Tell a benchmark's file of prompts from a text file."""
    return path is not None and path.suffix.lower() in LISTS


def read_texts(path: Path) -> list[str]:
    """Read the prompts of a text file or of a benchmark, in order."""
    return read_prompt_set(str(path)).texts if is_benchmark(path) else text_file.Settings(path=path).load()


def prompt_departures(protocol: Protocol, path: Path | None, stream: ImageStream) -> list[str]:
    """Say so if the images are for other prompts than the protocol's. Files do not say what they are for."""
    found = stream.describe().get("prompts_sha256")
    if protocol.prompts is None or found is None or _is_published(protocol, path):
        return []
    return [f"prompts of another list, sha256 {found[:12]}"]


def _is_published(protocol: Protocol, path: Path | None) -> bool:
    """Tell whether a file is the published list of a protocol."""
    if path is None or not is_benchmark(path):
        return False
    prompts = read_prompt_set(str(path))
    if prompts.name != protocol.prompts or prompts.departures:
        return False
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return protocol.prompts_md5 in (None, digest)


def categorised(stream: ImageStream, path: Path | None) -> ImageStream:
    """Return a stream whose labels are the categories of its prompts, if its prompts have categories."""
    if not is_benchmark(path):
        return stream
    prompts = read_prompt_set(str(path))
    if prompts_sha256(prompts.texts) != stream.describe().get("prompts_sha256") or not prompts.categories:
        return stream
    return CategorisedImages(stream, prompts)


class CategorisedImages:
    """The images of a stream, each with the category of its prompt as its label, sorted by name."""

    def __init__(self, stream: ImageStream, prompts: PromptSet) -> None:
        missing = sum(prompt.category is None for prompt in prompts.prompts)
        if missing:
            raise UserError(
                f"--prompts {prompts.origin}: {missing} prompts have no category; expected all to"
            )
        self.stream = stream
        self.origin = stream.origin
        self.classes = tuple(sorted(prompts.categories))
        self.label_count = len(self.classes)
        self._labels = [self.classes.index(str(prompt.category)) for prompt in prompts.prompts]

    @property
    def first_seed(self) -> int | None:
        return self.stream.first_seed

    def __len__(self) -> int:
        return len(self.stream)

    def describe(self) -> dict[str, Any]:
        return self.stream.describe()

    def name(self, row: int) -> str:
        return self.stream.name(row)

    def stamp(self, row: int) -> str:
        return self.stream.stamp(row)

    def label(self, row: int) -> int:
        return self._labels[row % len(self._labels)]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        return self.stream.read(rows)
