"""Findings about images: detected objects, answers to questions, read text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import track
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages
from distill.eval.preference.kept import Add, Store

Finding = dict[str, Any]
"""What was found in an image, as plain data."""


@runtime_checkable
class Examiner(Protocol):
    """Examines images, one at a time, so that a finding does not depend on their number."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a finding depends on except the image and what is asked of it, as plain data."""
        ...

    def examine(self, image: UInt8[Tensor, "3 h w"], asked: Any) -> Finding:
        """Examine an image; `asked` is what its prompt asks for, as plain data."""
        ...


@dataclasses.dataclass(frozen=True)
class Findings:
    """The finding of every row.

    `images_sha256` is the hash of the images' pixels in that order, `lossy` the number of images of each
    lossy compression.
    """

    rows: list[Finding]
    images_sha256: str
    lossy: dict[str, int]


def examine_images(
    images: PromptedImages, examiner: Examiner, asked: Sequence[Any], processes: Processes, progress: bool
) -> Findings:
    """Return the finding of every image; examine those that are not stored, by all processes together.

    `asked` is what each prompt asks for. Raises UserError, naming the first, if an image cannot be read; the
    findings of the others are kept.
    """
    asked_of = [asked[row % len(asked)] for row in range(len(images))]
    stamps = [_stamp(*pair) for pair in zip(images.stamps(processes), asked_of, strict=True)]

    def look(rows: Sequence[int], add: Add) -> list[str]:
        failures: list[str] = []
        hidden = not progress or not processes.is_main
        for row in track(rows, f"examination of {images.origin}", "images", hidden=hidden, leave=True):
            try:
                pixels = images.pixels(row)
            except UserError as error:
                failures.append(str(error))
                continue
            add(row, pixels, {"found": examiner.examine(pixels, asked_of[row])})
        return failures

    kept = Store("findings", images, examiner.identity, stamps).complete(look, processes)
    return Findings([line["found"] for line in kept.lines], kept.images_sha256, kept.lossy)


def _stamp(image: str, asked: Any) -> str:
    """Return a hash of an image with its prompt, and of what is asked of it."""
    return hashlib.sha256(f"{image}\n{json.dumps(asked, sort_keys=True)}".encode()).hexdigest()[:32]
