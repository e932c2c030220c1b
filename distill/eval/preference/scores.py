"""Scores of images by a reward, computed in batches of one size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import ProgressBar
from distill.data.images import from_bytes
from distill.eval.features import device_of
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages
from distill.eval.preference.kept import Add, Store
from distill.eval.preference.result_types import ScoreIdentity
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
    """The score of one row, with the image's pixels."""

    row: int
    pixels: UInt8[Tensor, "c h w"]
    score: float


def score_images(images: PromptedImages, scorer: Scorer, processes: Processes, progress: bool) -> Scores:
    """Return the score of every image; compute those that are not stored, by all processes together.

    Raises UserError, naming the first, if an image cannot be read or a score is not finite; the others are
    kept. A kill loses at most `AT_ONCE` scores.
    """

    def look(rows: Sequence[int], add: Add) -> list[str]:
        failures: list[str] = []
        title, hidden = f"{scorer.name} of {images.origin}", not progress or not processes.is_main
        with ProgressBar(title, len(rows), "images", hidden=hidden, leave=True) as bar:
            for scored in _score_rows(images, rows, scorer, failures):
                for row, pixels, score in scored:
                    add(row, pixels, {"score": score})
                bar.update(len(scored))
        return failures

    kept = Store("scores", images, scorer.identity, images.stamps(processes)).complete(look, processes)
    values = torch.tensor([float(line["score"]) for line in kept.lines], dtype=torch.float64)
    return Scores(values, kept.images_sha256, kept.lossy)


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
            found.append(ScoredRow(row, image, score))
        else:
            failures.append(
                f"{scorer.name} of {images.origin}: the score of {images.name(row)} is {score}, "
                f"for '{images.prompt(row)}'"
            )
    return found


@torch.inference_mode()
def rewards_of(reward: Reward, pixels: UInt8[Tensor, "n c h w"], cond: Condition) -> Float64[Tensor, " n"]:
    """Compute the rewards of at most `AT_ONCE` images. They do not depend on the number of images.

    The batch is filled up to `AT_ONCE` images, as `cond` must be.
    """
    device = device_of(reward)
    filled = torch.cat([pixels, pixels.new_zeros(AT_ONCE - len(pixels), *pixels.shape[1:])])
    return reward(from_bytes(filled.to(device)), cond.to(device))[: len(pixels)].double().cpu()
