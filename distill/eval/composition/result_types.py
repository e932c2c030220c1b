"""Types of the results that `geneval`, `dpg` and `text` write as JSON."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from distill.eval.preference.result_types import PromptedResults

FORMAT = "distill-composition/1"


class MeasureResult(TypedDict):
    """A measure with its estimate; `count` is the number of prompts that it is about.

    `interval` is a 95 % interval. `numerators` and `denominators` are the sums that each prompt adds, in the
    order of the prompts.
    """

    title: str
    value: float
    standard_error: float | None
    interval: list[float] | None
    count: int
    scale: float
    numerators: list[float]
    denominators: list[float]
    strata: list[str] | None


class ImageResult(TypedDict):
    """One image: its file, its score from 0 to 1, and what was found instead of what was asked for."""

    file: str
    score: float
    reason: str


class _Sheet(TypedDict, total=False):
    sheet: str


class CompositionResults(PromptedResults, _Sheet):
    """The content of `geneval.json`, `dpg.json` or `text.json`.

    `asked_sha256` is the hash of what the prompts ask for. `examiner` holds everything that a finding depends
    on except that and the image; `images` are in the order of the rows; `sheet` is the file name of the
    contact sheet.
    """

    benchmark: str
    title: str
    asked_sha256: str
    examiner: dict[str, Any]
    measures: dict[str, MeasureResult]
    images: list[ImageResult]
    conventions: list[str]
    notes: list[str]
    commit: str | None
    machine: str
