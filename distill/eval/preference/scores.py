"""Scores of images, kept as one line of JSON each.

An interrupted evaluation continues, and other lists of prompts reuse the scores that they share. A score
belongs to the content of a file, to its prompt, and to everything that decides the reward; if one of these
changes, it is computed again. Every line has a checksum, so a line that a killed process left unfinished, or
that a disk changed, is computed again too. A kill loses at most `AT_ONCE` scores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.config.progress import ProgressBar
from distill.data.images import from_bytes
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages, folder_of
from distill.eval.preference.result_types import ScoreIdentity
from distill.eval.results.checked_lines import CheckedLines, read_checked_lines
from distill.storage.files import write_json
from distill.types import Condition, Reward

AT_ONCE = 8
"""Images in every batch that a reward is given: the last digit of a network depends on their number."""


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A reward, its name, and everything that its scores depend on except the image and its prompt."""

    name: str
    reward: Reward
    identity: ScoreIdentity


@dataclasses.dataclass(frozen=True)
class Scores:
    """The score of every row.

    `images_sha256` is the hash of the images' pixels in that order, `lossy` the number of images of each
    lossy compression.
    """

    values: Float64[Tensor, " n"]
    images_sha256: str
    lossy: dict[str, int]


class ScoredRow(NamedTuple):
    """The score of one row, with the hash of the image's pixels."""

    row: int
    pixels_sha256: str
    score: float


class StoredScore(NamedTuple):
    """A score that was read back."""

    pixels_sha256: str
    score: float


def score_images(images: PromptedImages, scorer: Scorer, processes: Processes, progress: bool) -> Scores:
    """Return the score of every image; compute those that are not stored, by all processes together.

    Raises UserError, naming the first, if an image cannot be read or a score is not finite; the others are
    kept.
    """
    folder = folder_of(images.folder / "scores", scorer.identity)
    stamps = images.stamps(processes)
    try:
        failures = _store_absent(images, scorer, folder, stamps, processes, progress)
    except OSError as error:
        raise UserError(f"--store: {folder} cannot be written ({error.strerror})") from error
    failures = processes.gather(failures)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(images)} images have no score: {failures[0]}; "
            "the scores of the others are kept"
        )
    known, _ = _read(folder)
    found = [known[stamp] for stamp in stamps]
    digest = images_sha256([one.pixels_sha256 for one in found])
    lossy = Counter(facts.lossy for facts in images.facts(processes) if facts.lossy)
    values = torch.tensor([one.score for one in found], dtype=torch.float64)
    return Scores(values, digest, dict(sorted(lossy.items())))


def _store_absent(
    images: PromptedImages,
    scorer: Scorer,
    folder: Path,
    stamps: Sequence[str],
    processes: Processes,
    progress: bool,
) -> list[str]:
    """Compute and store this process's share of the absent scores; return messages of those that failed."""
    if processes.is_main:
        write_json(images.folder / "subject.json", images.identity)
        write_json(folder / "score.json", scorer.identity)
    known, damaged = _read(folder)
    absent = [row for row, stamp in enumerate(stamps) if stamp not in known]
    if damaged and absent and processes.is_main:
        print(f"{folder}: {damaged} stored scores are not whole and are left out", file=sys.stderr)
    processes.wait()  # no process writes before all have read what is stored
    failures: list[str] = []
    mine = processes.share(absent)
    title, hidden = f"{scorer.name} of {images.origin}", not progress or not processes.is_main
    bar = ProgressBar(title, len(mine), "images", hidden=hidden, leave=True)
    with CheckedLines(folder / f"{processes.number}.jsonl") as lines, bar:
        for scored in _score_rows(images, mine, scorer, failures):
            for row, digest, score in scored:
                lines.add({"stamp": stamps[row], "image": images.name(row), "pixels": digest, "score": score})
            bar.update(len(scored))
    return failures


def _score_rows(
    images: PromptedImages, rows: Sequence[int], scorer: Scorer, failures: list[str]
) -> Iterator[list[ScoredRow]]:
    """Score the images in batches of one size each; messages of rows that fail are added to `failures`."""
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
            yield _score_batch(images, waiting.pop(tuple(pixels.shape)), scorer, failures)
    for batch in waiting.values():
        yield _score_batch(images, batch, scorer, failures)


def _score_batch(
    images: PromptedImages, batch: list[tuple[int, Tensor]], scorer: Scorer, failures: list[str]
) -> list[ScoredRow]:
    pixels = torch.stack([image for _, image in batch])
    scores = rewards_of(scorer.reward, pixels, images.condition([row for row, _ in batch], AT_ONCE))
    found = []
    for (row, image), score in zip(batch, scores.tolist(), strict=True):
        if math.isfinite(score):
            found.append(ScoredRow(row, pixels_sha256(image), score))
        else:
            failures.append(
                f"{scorer.name} of {images.origin}: the score of {images.name(row)} is {score}, "
                f"for '{images.prompt(row)}'"
            )
    return found


def pixels_sha256(image: UInt8[Tensor, "c h w"]) -> str:
    """Hash the shape and the pixels of an image."""
    content = f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def images_sha256(pixels: Sequence[str]) -> str:
    """Return the hash of a list of images by the hashes of their pixels."""
    return hashlib.sha256("".join(pixels).encode()).hexdigest()


@torch.inference_mode()
def rewards_of(reward: Reward, pixels: UInt8[Tensor, "n c h w"], cond: Condition) -> Float64[Tensor, " n"]:
    """Compute the rewards of at most `AT_ONCE` images. They do not depend on the number of images.

    The batch is filled up to `AT_ONCE` images, as `cond` must be.
    """
    device = _device_of(reward)
    filled = torch.cat([pixels, pixels.new_zeros(AT_ONCE - len(pixels), *pixels.shape[1:])])
    return reward(from_bytes(filled.to(device)), cond.to(device))[: len(pixels)].double().cpu()


def _device_of(module: nn.Module) -> torch.device:
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def _read(folder: Path) -> tuple[dict[str, StoredScore], int]:
    """Read the stored scores by the images' stamps; count the lines that are unfinished or damaged."""
    entries, damaged = read_checked_lines(folder)
    return {one["stamp"]: StoredScore(one["pixels"], float(one["score"])) for one in entries}, damaged
