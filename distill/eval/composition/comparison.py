"""Comparison of results of one benchmark of composition: what must be equal, and what deserves a note."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import Field, FiniteFloat, PositiveInt

from distill.config.errors import UserError
from distill.eval.composition.result_types import FORMAT, CompositionResults
from distill.eval.preference.comparison import NOTHING, PromptsPart, flat_facts
from distill.eval.results.file import Part, read_results_of, shortened

COMMANDS = "geneval, dpg or text"


class _Subject(Part):
    of: str
    images_sha256: str
    paired_by: str
    lossy: dict[str, int]


class _Measure(Part):
    title: str
    value: FiniteFloat
    standard_error: FiniteFloat | None
    scale: FiniteFloat
    numerators: list[FiniteFloat]
    denominators: list[FiniteFloat]
    strata: list[str] | None


class _Results(Part):
    benchmark: str
    title: str
    prompts: PromptsPart
    per_prompt: PositiveInt
    asked_sha256: str
    seeds: list[int | None] = Field(min_length=1)
    subject: _Subject
    examiner: dict[str, Any]
    measures: dict[str, _Measure] = Field(min_length=1)


def read_results(path: Path) -> CompositionResults:
    """Read results that one of the commands wrote.

    Raises UserError, naming the first part that does not fit, if the file holds something else.
    """
    results, parts = read_results_of(COMMANDS, path, FORMAT, _Results)
    count = parts.prompts.count
    for name, measure in parts.measures.items():
        sums = [measure.numerators, measure.denominators]
        sums += [] if measure.strata is None else [measure.strata]
        if any(len(values) != count for values in sums) or max(measure.denominators) <= 0:
            raise UserError(
                f"{path}: measures.{name} is not of {count} prompts; "
                f"expected what python -m eval {COMMANDS} writes"
            )
    return cast(CompositionResults, results)


def check_comparable(results: Mapping[str, CompositionResults]) -> None:
    """Refuse results of other benchmarks, prompts, seeds or examiners, naming the first difference."""
    first, *others = results
    expected = _decisive(results[first])
    for other in others:
        found = _decisive(results[other])
        for key in expected | found:
            a, b = expected.get(key, NOTHING), found.get(key, NOTHING)
            if a == b or (key == "seeds" and (None in a or None in b)):
                continue
            raise UserError(
                f"{other}: {key} is {shortened(b)}; expected {shortened(a)} as in {first}, "
                "results of different ones are not to be compared"
            )


def _decisive(results: CompositionResults) -> dict[str, Any]:
    """Return the facts that a paired comparison depends on, by name."""
    return {
        "benchmark": results["benchmark"],
        "prompts_sha256": results["prompts"]["sha256"],
        "asked_sha256": results["asked_sha256"],
        "per_prompt": results["per_prompt"],
        "seeds": results["seeds"],
        "measures": list(results["measures"]),
        **{f"examiner.{key}": value for key, value in flat_facts(results["examiner"]).items()},
    }
