"""Findings about images, kept as one line of JSON each: detected objects, answers to questions, read text.

An interrupted evaluation continues, and other lists of prompts reuse the findings that they share. A finding
belongs to the content of a file, to its prompt and what is asked of it, and to everything that decides the
examiner; if one of these changes, the image is examined again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import track
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages, folder_of
from distill.eval.preference.scores import pixels_sha256
from distill.eval.results.checked_lines import CheckedLines, read_checked_lines
from distill.storage.files import write_json

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
    folder = folder_of(images.folder / "findings", examiner.identity)
    asked_of = [asked[row % len(asked)] for row in range(len(images))]
    stamps = [_stamp(*pair) for pair in zip(images.stamps(processes), asked_of, strict=True)]
    try:
        failures = _store_absent(images, examiner, asked_of, folder, stamps, processes, progress)
    except OSError as error:
        raise UserError(f"--store: {folder} cannot be written ({error.strerror})") from error
    failures = processes.gather(failures)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(images)} images cannot be examined: {failures[0]}; "
            "the findings of the others are kept"
        )
    entries, _ = read_checked_lines(folder)
    known = {one["stamp"]: one for one in entries}
    found = [known[stamp] for stamp in stamps]
    digest = hashlib.sha256("".join(one["pixels"] for one in found).encode()).hexdigest()
    lossy = Counter(facts.lossy for facts in images.facts(processes) if facts.lossy)
    return Findings([one["found"] for one in found], digest, dict(sorted(lossy.items())))


def _store_absent(
    images: PromptedImages,
    examiner: Examiner,
    asked: Sequence[Any],
    folder: Path,
    stamps: Sequence[str],
    processes: Processes,
    progress: bool,
) -> list[str]:
    """Examine this process's share of the images without a finding; return messages of those that failed."""
    if processes.is_main:
        write_json(images.folder / "subject.json", images.identity)
        write_json(folder / "examiner.json", examiner.identity)
    entries, damaged = read_checked_lines(folder)
    known = {one["stamp"] for one in entries}
    absent = [row for row, stamp in enumerate(stamps) if stamp not in known]
    if damaged and absent and processes.is_main:
        print(f"{folder}: {damaged} stored findings are not whole and are left out", file=sys.stderr)
    processes.wait()  # no process writes before all have read what is stored
    failures: list[str] = []
    title, hidden = f"examination of {images.origin}", not progress or not processes.is_main
    with CheckedLines(folder / f"{processes.number}.jsonl") as lines:
        for row in track(processes.share(absent), title, "images", hidden=hidden, leave=True):
            try:
                pixels = images.pixels(row)
            except UserError as error:
                failures.append(str(error))
                continue
            found = examiner.examine(pixels, asked[row])
            name, digest = images.name(row), pixels_sha256(pixels)
            lines.add({"stamp": stamps[row], "image": name, "pixels": digest, "found": found})
    return failures


def _stamp(image: str, asked: Any) -> str:
    """Return a hash of an image with its prompt, and of what is asked of it."""
    return hashlib.sha256(f"{image}\n{json.dumps(asked, sort_keys=True)}".encode()).hexdigest()[:32]
