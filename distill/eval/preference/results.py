"""Statistics and facts in `preference.json`, for one subject or two on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.preference.images import ImageTotals, PromptedImages
from distill.eval.preference.result_types import (
    Against,
    CategoryStatistics,
    PairStatistics,
    SecondScores,
    Statistics,
    SubjectResult,
)
from distill.eval.preference.statistics import mean_over_prompts, win_rate
from distill.eval.prompt_sets import PromptSet


def by_prompt(values: Sequence[float] | Tensor, prompts: int) -> Float64[Tensor, "prompts images"]:
    """Arrange scores as one row for each prompt; score i is of prompt i % prompts."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, prompts).T


def independent(prompts: PromptSet, images: int) -> int:
    """Return the number of independent draws among so many images.

    The images of one prompt are alike, so each prompt is one draw. Labels are not drawn, so there each image
    is one.
    """
    return images if prompts.are_labels else len(prompts)


def measure(sides: Sequence[Sequence[float]], prompts: PromptSet) -> Statistics:
    """Compute the statistics of one subject's scores, over all prompts and for each category.

    With the scores of a second subject, `against` holds its statistics and those of the pairs.
    """
    count = independent(prompts, len(sides[0]))
    tables = [by_prompt(values, count) for values in sides]
    categories: dict[str, CategoryStatistics] = {}
    for name, numbers in prompts.categories.items():
        rows = [turn + number for turn in range(0, count, len(prompts)) for number in numbers]
        categories[name] = _of_category([table[rows] for table in tables])
    mean, error = mean_over_prompts(tables[0])
    second: SecondScores = {}
    if len(sides) == 2:
        second = {"against": {**_against(*tables), "values": list(sides[1])}}
    return {
        "mean": mean,
        "standard_error": error,
        **second,
        "by_category": categories,
        "values": list(sides[0]),
    }


def _of_category(tables: Sequence[Float64[Tensor, "_ _"]]) -> CategoryStatistics:
    mean, error = mean_over_prompts(tables[0])
    measured: CategoryStatistics = {"count": len(tables[0]), "mean": mean, "standard_error": error}
    if len(tables) == 2:
        measured["against"] = _against(*tables)
    return measured


def _against(first: Float64[Tensor, "prompts images"], second: Float64[Tensor, "prompts images"]) -> Against:
    mean, error = mean_over_prompts(second)
    return {"mean": mean, "standard_error": error, **paired(first, second)}


def paired(
    first: Float64[Tensor, "prompts images"], second: Float64[Tensor, "prompts images"]
) -> PairStatistics:
    """Compute how often and by how much the first scores are higher than the second."""
    rate, low, high = win_rate(first, second)
    difference = mean_over_prompts(first - second)
    return {
        "win_rate": rate,
        "win_interval": [low, high],
        "difference": difference.mean,
        "difference_error": difference.standard_error,
    }


def describe_images(images: PromptedImages, read: ImageTotals) -> SubjectResult:
    """Return what a result records of a subject: source, pairing, compression and hash of its images."""
    facts = {
        "of": images.origin,
        **images.identity,
        "folder": str(images.files.path),
        "files": [images.name(row) for row in range(len(images))],
        "paired_by": images.paired_by,
        "lossy": read.lossy,
        "images_sha256": read.images_sha256,
    }
    return cast(SubjectResult, facts)


def notes_on_images(images: PromptedImages, read: ImageTotals) -> list[str]:
    """Return the notes that a reader needs on images that existed already."""
    notes = []
    if images.paired_by == "order":
        first, last = (f"{images.name(row)} with '{images.prompt(row)}'" for row in (0, len(images) - 1))
        notes.append(
            f"the images of {images.origin} are paired with prompts by their order: "
            f"{first} first, {last} last"
        )
    repeated = images.repeated()
    if repeated:
        notes.append(
            f"{len(repeated)} of {len(images)} images of {images.origin} repeat a seed of their prompt, "
            f"and are no draws of their own: the first is {images.name(repeated[0])}"
        )
    if read.lossy:
        kinds = ", ".join(f"{count} {kind}" for kind, count in read.lossy.items())
        notes.append(
            f"{kinds} of {len(images)} images of {images.origin}: what compression left of them was scored"
        )
    return notes


def check_pairing(first: PromptedImages, second: PromptedImages) -> list[str]:
    """Refuse pairs of different seeds; return a note if seeds are not known."""
    for images in (first, second):
        if None in images.seeds:
            return [
                f"the seeds of {images.origin} are not known: "
                "its images are paired with those of the same prompts, whatever their noise"
            ]
    for row, (seed, other) in enumerate(zip(first.seeds, second.seeds, strict=True)):
        if seed != other:
            raise UserError(
                f"--against: image {row} of '{first.prompt(row)}' has seed {other}; "
                f"expected {seed} as the first subject's, win rates are of the same seeds"
            )
    return []
