"""Scores of images, kept as a line of JSON for each: an interrupted evaluation continues, and other lists of prompts find what they share.

A score belongs to the content of a file, its prompt, and everything that decides the reward; where one of these changed it is computed anew. A line
carries a check sum: one that a killed process left half, or that a disk changed, is computed anew too. At most `AT_ONCE` scores are lost by a kill.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from tqdm import tqdm

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.storage.files import write_json
from distill.types import Condition, Reward
from eval.images.processes import Processes
from eval.preference.images import PromptedImages, folder_of

AT_ONCE = 8
"""Images that a reward is given at once, always: the last digit of a network depends on their number."""


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A reward, its name, and what its scores depend on besides the image and its prompt."""

    name: str
    reward: Reward
    identity: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The score of every row (n,), the hash of the images' pixels in that order, and the number of images of each lossy compression."""

    values: Float64[Tensor, " n"]
    images_sha256: str
    lossy: dict[str, int]


def score_images(images: PromptedImages, scorer: Scorer, processes: Processes, progress: bool) -> Scores:
    """The score of every image, those that are not known yet computed now, by all processes together.

    Raises UserError, naming the first, where an image cannot be read or a score is not finite; the others are kept.
    """
    folder = folder_of(images.folder / "scores", scorer.identity)
    stamps = images.stamps(processes)
    try:
        if processes.is_main:
            write_json(images.folder / "subject.json", images.identity)
            write_json(folder / "score.json", scorer.identity)
        known, damaged = _read(folder)
        absent = [row for row, stamp in enumerate(stamps) if stamp not in known]
        if damaged and absent and processes.is_main:
            print(f"{folder}: {damaged} stored scores are not whole and are left out", file=sys.stderr)
        processes.wait()  # all have looked before any writes
        failures: list[str] = []
        mine = processes.share(absent)
        with (
            _Lines(folder / f"{processes.number}.jsonl") as lines,
            tqdm(
                total=len(mine),
                desc=f"{scorer.name} of {images.origin}",
                unit="image",
                disable=not progress or not processes.is_main,
            ) as bar,
        ):
            for rows in _scored(images, list(mine), scorer, failures):
                for row, digest, score in rows:
                    lines.add(
                        {"stamp": stamps[row], "image": images.name(row), "pixels": digest, "score": score}
                    )
                bar.update(len(rows))
    except OSError as error:
        raise UserError(f"--store: {folder} cannot be written ({error.strerror})") from error
    failures = processes.gather(failures)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(images)} images have no score: {failures[0]}; the scores of the others are kept"
        )
    known, _ = _read(folder)
    entries = [known[stamp] for stamp in stamps]
    digest = hashlib.sha256("".join(entry["pixels"] for entry in entries).encode()).hexdigest()
    lossy = Counter(facts.lossy for facts in images.facts(processes) if facts.lossy)
    return Scores(
        torch.tensor([entry["score"] for entry in entries], dtype=torch.float64),
        digest,
        dict(sorted(lossy.items())),
    )


def _scored(
    images: PromptedImages, rows: list[int], scorer: Scorer, failures: list[str]
) -> Iterator[list[tuple[int, str, float]]]:
    """Row, hash of the pixels and score of a few images of one size after another, without those that go to `failures`."""
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for row in rows:
        try:
            pixels = images.pixels(row)
        except UserError as error:
            failures.append(str(error))
            continue
        batch = waiting.setdefault(tuple(pixels.shape), [])
        batch.append((row, pixels))
        if len(batch) == AT_ONCE:
            yield _of_batch(images, waiting.pop(tuple(pixels.shape)), scorer, failures)
    for batch in waiting.values():
        yield _of_batch(images, batch, scorer, failures)


def _of_batch(
    images: PromptedImages, batch: list[tuple[int, Tensor]], scorer: Scorer, failures: list[str]
) -> list[tuple[int, str, float]]:
    pixels = torch.stack([image for _, image in batch])
    scores = rewards_of(scorer.reward, pixels, images.condition([row for row, _ in batch], AT_ONCE))
    found = []
    for (row, image), score in zip(batch, scores.tolist(), strict=True):
        if math.isfinite(score):
            found.append(
                (
                    row,
                    hashlib.sha256(
                        f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
                    ).hexdigest(),
                    score,
                )
            )
        else:
            failures.append(
                f"{scorer.name} of {images.origin}: the score of {images.name(row)} is {score}, for '{images.prompt(row)}'"
            )
    return found


@torch.inference_mode()
def rewards_of(reward: Reward, pixels: UInt8[Tensor, "n c h w"], cond: Condition) -> Float64[Tensor, " n"]:
    """The rewards of at most `AT_ONCE` images, whose condition is filled up to that many. They do not depend on their number."""
    device = next(
        (tensor.device for tensor in (*reward.parameters(), *reward.buffers())), torch.device("cpu")
    )
    filled = torch.cat([pixels, pixels.new_zeros(AT_ONCE - len(pixels), *pixels.shape[1:])])
    return reward(from_bytes(filled.to(device)), cond.to(device))[: len(pixels)].double().cpu()


def _read(folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The lines of all files by the stamps of the images, and how many are left out: halves, which killed processes leave, and damaged ones."""
    known: dict[str, dict[str, Any]] = {}
    damaged = 0
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line and (entry := _whole(line)):
                known[entry["stamp"]] = {"pixels": entry["pixels"], "score": float(entry["score"])}
            elif line:
                damaged += 1
    return known, damaged


def _whole(line: str) -> dict[str, Any] | None:
    """Return the content of a line, None unless it is what was written."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.pop("check", None) == _check(entry) else None


def _check(entry: dict[str, Any]) -> str:
    """The check sum of a line's content."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


class _Lines:
    """A file of JSON lines to add to, made by the first; one begins on a line of its own, whatever an earlier process left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Lines:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = self.path.open("ab+")
        if self.handle.tell() > 0:
            self.handle.seek(-1, os.SEEK_END)
            if self.handle.read(1) != b"\n":
                self.handle.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()

    def add(self, entry: dict[str, Any]) -> None:
        self.handle.write(json.dumps({**entry, "check": _check(entry)}).encode() + b"\n")
        self.handle.flush()
