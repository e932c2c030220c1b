"""What `preference.json` holds of the scores of one subject, or of two on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from distill.config.errors import UserError
from eval.preference.images import PromptedImages
from eval.preference.scores import Scores
from eval.preference.statistics import mean_over_prompts, win_rate
from eval.prompt_sets import PromptSet

FORMAT = "distill-preference/1"


def by_prompt(values: Sequence[float] | Tensor, prompts: int) -> Float64[Tensor, "prompts images"]:
    """Scores in the order of the rows, prompt i % prompts for row i, as a row for each prompt."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, prompts).T


def independent(prompts: PromptSet, images: int) -> int:
    """How many draws so many images are: one for each prompt, whose images are alike. Labels are not drawn, so that every image is one."""
    return images if prompts.are_labels else len(prompts)


def measure(sides: Sequence[Sequence[float]], prompts: PromptSet) -> dict[str, Any]:
    """The statistics of one subject's scores, of all prompts and of each category; under `against` those of a second's, and of the pairs."""
    count = independent(prompts, len(sides[0]))
    tables = [by_prompt(values, count) for values in sides]
    measured = _numbers(tables)
    measured["by_category"] = {}
    for name, numbers in prompts.categories.items():
        rows = [turn + number for turn in range(0, count, len(prompts)) for number in numbers]
        measured["by_category"][name] = {"count": len(rows), **_numbers([table[rows] for table in tables])}
    for measured_side, values in zip(
        [measured, *([measured["against"]] if len(sides) == 2 else [])], sides, strict=True
    ):
        measured_side["values"] = list(values)
    return measured


def _numbers(tables: Sequence[Float64[Tensor, "_ _"]]) -> dict[str, Any]:
    alone = [mean_over_prompts(table)._asdict() for table in tables]
    return {**alone[0], "against": {**alone[1], **paired(*tables)}} if len(tables) == 2 else alone[0]


def paired(
    first: Float64[Tensor, "prompts images"], second: Float64[Tensor, "prompts images"]
) -> dict[str, Any]:
    """How often and by how much the first score higher than the second of the same prompts and seeds."""
    rate, low, high = win_rate(first, second)
    difference = mean_over_prompts(first - second)
    return {
        "win_rate": rate,
        "win_interval": [low, high],
        "difference": difference.mean,
        "difference_error": difference.standard_error,
    }


def describe_images(images: PromptedImages, scores: Scores) -> dict[str, Any]:
    """Whose images were scored, how they got their prompts, what compressed them, and the hash of their pixels."""
    facts = {"paired_by": images.paired_by, "lossy": scores.lossy}
    return {
        "of": images.origin,
        **images.identity,
        "folder": str(images.files.path),
        **facts,
        "images_sha256": scores.images_sha256,
    }


def notes_on_images(images: PromptedImages, scores: Scores) -> list[str]:
    """Return what a reader must know of images that were there already."""
    notes = []
    if images.paired_by == "order":
        first, last = (f"{images.name(row)} with '{images.prompt(row)}'" for row in (0, len(images) - 1))
        notes.append(
            f"the images of {images.origin} are paired with prompts by their order: {first} first, {last} last"
        )
    repeated = images.repeated()
    if repeated:
        example = f"the first is {images.name(repeated[0])}"
        notes.append(
            f"{len(repeated)} of {len(images)} images of {images.origin} repeat a seed of their prompt, and are no draws of their own: {example}"
        )
    if scores.lossy:
        kinds = ", ".join(f"{count} {kind}" for kind, count in scores.lossy.items())
        notes.append(
            f"{kinds} of {len(images)} images of {images.origin}: what compression left of them was scored"
        )
    return notes


def check_pairing(first: PromptedImages, second: PromptedImages) -> list[str]:
    """Notes on pairs of images of one prompt whose seeds are not known. Raises UserError where the seeds are others."""
    for images in (first, second):
        if None in images.seeds:
            return [
                f"the seeds of {images.origin} are not known: its images are paired with those of the same prompts, whatever their noise"
            ]
    for row, (seed, other) in enumerate(zip(first.seeds, second.seeds, strict=True)):
        if seed != other:
            where = f"image {row} of '{first.prompt(row)}'"
            raise UserError(
                f"--against: {where} has seed {other}; expected {seed} as the first subject's, win rates are of the same seeds"
            )
    return []
