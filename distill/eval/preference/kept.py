"""What is known of each image of a list, scores or findings, kept as one line of JSON each.

An interrupted evaluation continues, and other lists of prompts reuse the lines that they share. A line
belongs to the content of a file, to its prompt and what is asked of it, and to everything that decides what
was found; if one of these changes, the image is looked at again. Every line has a checksum, so a line that a
killed process left unfinished, or that a disk changed, is written again too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError, writing_to
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages, folder_of
from distill.eval.results.checked_lines import CheckedLines, read_checked_lines
from distill.storage.files import write_json

Add = Callable[[int, UInt8[Tensor, "c h w"], dict[str, Any]], None]
"""Keeps what was found in the image of a row, of these pixels."""
Look = Callable[[Sequence[int], Add], list[str]]
"""Looks at the images of some rows, keeps what it finds, and returns messages of those that failed."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """The line of every row.

    `images_sha256` is the hash of the images' pixels in that order, `lossy` the number of images of each
    lossy compression.
    """

    lines: list[dict[str, Any]]
    images_sha256: str
    lossy: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Store:
    """The lines of one kind about images, `scores` or `findings`, that depend on `identity`.

    `stamps` say what the line of each row belongs to.
    """

    kind: str
    images: PromptedImages
    identity: Mapping[str, Any]
    stamps: Sequence[str]

    @property
    def folder(self) -> Path:
        return folder_of(self.images.folder / self.kind, self.identity)

    def complete(self, look: Look, processes: Processes) -> Kept:
        """Return the line of every image; all processes together look at those that have none.

        Raises UserError, naming the first, if images fail; the lines of the others are kept.
        """
        folder = self.folder
        with writing_to(f"--store: {folder}"):
            absent = self._absent(processes)
            with CheckedLines(folder / f"{processes.number}.jsonl") as lines:

                def add(row: int, pixels: Tensor, found: dict[str, Any]) -> None:
                    image = {"image": self.images.name(row), "pixels": pixels_sha256(pixels)}
                    lines.add({"stamp": self.stamps[row], **image, **found})

                failures = look(processes.share(absent), add)
        failures = processes.gather(failures)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(self.images)} images have no {self.kind}: {failures[0]}; "
                f"the {self.kind} of the others are kept"
            )
        entries, _ = read_checked_lines(folder)
        known = {entry["stamp"]: entry for entry in entries}
        found = [known[stamp] for stamp in self.stamps]
        lossy = Counter(facts.lossy for facts in self.images.facts(processes) if facts.lossy)
        return Kept(found, images_sha256([line["pixels"] for line in found]), dict(sorted(lossy.items())))

    def _absent(self, processes: Processes) -> list[int]:
        """Return the rows without a line, after all processes have read what is kept."""
        if processes.is_main:
            write_json(self.images.folder / "subject.json", self.images.identity)
            write_json(self.folder / "identity.json", self.identity)
        entries, damaged = read_checked_lines(self.folder)
        known = {entry["stamp"] for entry in entries}
        absent = [row for row, stamp in enumerate(self.stamps) if stamp not in known]
        if damaged and absent and processes.is_main:
            print(
                f"{self.folder}: {damaged} stored {self.kind} are not whole and are left out", file=sys.stderr
            )
        processes.wait()  # no process writes before all have read
        return absent


def pixels_sha256(image: UInt8[Tensor, "c h w"]) -> str:
    """Hash the shape and the pixels of an image."""
    content = f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def images_sha256(pixels: Sequence[str]) -> str:
    """Return the hash of a list of images by the hashes of their pixels."""
    return hashlib.sha256("".join(pixels).encode()).hexdigest()
