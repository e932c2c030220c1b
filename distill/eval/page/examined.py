"""Results of benchmarks that judge each image by what its prompt asks for, as one more score."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from pydantic import Field, FiniteFloat, PositiveInt
from typing_extensions import NotRequired

from distill.config.errors import UserError
from distill.eval.preference.result_types import Results, ScoreResult
from distill.eval.preference.results import measure
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from distill.eval.results.file import Part, read_results_of

KEYS = frozenset({"benchmark", "prompts", "subject", "seeds", "images", "measures"})
"""Keys by which such results are recognised."""


class ExaminedScore(ScoreResult):
    """A score of a benchmark: what its images lack, by row, and the benchmark's own measures."""

    reasons: NotRequired[list[str]]
    measures: NotRequired[list[tuple[str, float, float | None]]]


class _Prompts(Part):
    set: str
    sha256: str
    of: str = ""
    texts: list[str] = Field(min_length=1)
    categories: list[str | None]
    departures: list[str]


class _Subject(Part):
    of: str
    images_sha256: str


class _Image(Part):
    file: str
    score: FiniteFloat
    reason: str = ""


class _Measure(Part):
    title: str
    value: FiniteFloat
    standard_error: FiniteFloat | None
    scale: FiniteFloat = 1.0


class _Examined(Part):
    benchmark: str
    title: str
    asked_sha256: str = ""
    examiner: dict[str, Any]
    prompts: _Prompts
    subject: _Subject
    per_prompt: PositiveInt
    seeds: list[int | None] = Field(min_length=1)
    measures: dict[str, _Measure] = Field(min_length=1)
    images: list[_Image]


def read_examined(path: Path, format: str, benchmark: str) -> Results:
    """Read the results of a benchmark, and return them as `preference` would write them.

    The benchmark is one score, whose mean is over images. Its own measures, which may weigh prompts
    otherwise, come with it.
    """
    results, parts = read_results_of(benchmark, path, format, _Examined)
    prompts = parts.prompts
    rows = len(parts.seeds)
    if (
        len(parts.images) != rows
        or rows % len(prompts.texts)
        or len(prompts.categories) != len(prompts.texts)
    ):
        raise UserError(
            f"{path}: its prompts, seeds and images are not equally many; "
            f"expected what python -m eval {benchmark} writes"
        )
    listed = [
        Prompt(text, category) for text, category in zip(prompts.texts, prompts.categories, strict=True)
    ]
    values = [image.score for image in parts.images]
    score = {
        "title": parts.title,
        "also": {},
        "convention": "",
        "files": {},
        "score": parts.benchmark,
        "weights_sha256": hashlib.sha256(json.dumps(parts.examiner, sort_keys=True).encode()).hexdigest(),
        "settings": {"asked_sha256": parts.asked_sha256},
        "reads": parts.examiner,
        **measure([values], PromptSet.whole(prompts.set, prompts.of, listed)),
        "reasons": [image.reason for image in parts.images],
        "measures": [
            (one.title, one.value * one.scale, _scaled(one.standard_error, one.scale))
            for one in parts.measures.values()
        ],
    }
    subject = {**results["subject"], "files": [image.file for image in parts.images]}
    scores = {parts.benchmark: score}
    count = len(prompts.texts)
    return cast(Results, {**results, "subject": subject, "scores": scores, "independent": count})


def _scaled(error: float | None, scale: float) -> float | None:
    return None if error is None else error * scale
