"""Statistics of images within a prompt or a label by model, with standard errors over prompts or labels."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat

from distill.config.errors import UserError
from distill.eval.fid.diversity.results import FORMAT
from distill.eval.results.file import Part, read_results_of, shortened
from distill.eval.results.names import distinct_names
from distill.publishing.report.preference import with_error
from distill.publishing.report.tables import bold_best, render_table

DECISIVE = ("n", "kind", "conditions", "images", "preprocessing_sha256", "weights_sha256", "reference_sha256")
"""Keys that results must have in common to be compared, beside their protocol."""


class _Source(Part):
    of: str


class _Statistic(Part):
    mean: FiniteFloat
    standard_error: FiniteFloat | None


class Diversity(Part):
    """The parts of `python -m eval diversity`'s results that a page needs."""

    protocol: str
    source: _Source
    n: int
    kind: str
    conditions: int
    images: list[int]
    statistics: dict[str, _Statistic] = Field(min_length=1)
    perceptual: dict[str, str] = Field(default_factory=dict)
    preprocessing_sha256: str
    weights_sha256: str
    reference_sha256: str | None = None


def read_diversity(path: Path) -> Diversity:
    """Read what `diversity` wrote, and check the parts that a page needs."""
    parts: Diversity = read_results_of("diversity", path, FORMAT, Diversity)[1]
    return parts


def render_diversity(results: Mapping[str, Mapping[str, Diversity]], names: Mapping[str, str]) -> str:
    """Show the statistics by protocol and path, a table for each protocol."""
    return "".join(_render_protocol(protocol, one, names) for protocol, one in results.items())


def _render_protocol(protocol: str, results: Mapping[str, Diversity], names: Mapping[str, str]) -> str:
    check_comparable(results)
    shown = distinct_names({path: names.get(path, one.source.of) for path, one in results.items()})
    rows = []
    for key in dict.fromkeys(name for one in results.values() for name in one.statistics):
        known = [one.statistics.get(key) for one in results.values()]
        texts = ["-" if one is None else with_error(one.mean, one.standard_error) for one in known]
        means = [None if one is None else one.mean for one in known]
        rows.append((key.replace("_", " ").capitalize(), bold_best(means, texts)))
    first = next(iter(results.values()))
    each = " to ".join(str(count) for count in dict.fromkeys(first.images))
    note = (
        f"{each} images of each of {first.conditions} {first.kind}s, features of {protocol}. "
        f"± is the standard error over {first.kind}s; bold: the most diverse."
    )
    table = render_table(protocol, [shown[path] for path in results], rows)
    return f'<p class="note">{escape(note)}</p>{table}'


def check_comparable(results: Mapping[str, Diversity]) -> None:
    """Refuse results that differ in what their statistics depend on; the error names the first difference."""
    first, *others = results
    expected = _decisive(results[first])
    for other in others:
        found = _decisive(results[other])
        for key, value in expected.items():
            if found.get(key, value) != value:
                raise UserError(
                    f"{other}: {key} is {shortened(found[key])}; expected {shortened(value)} as in "
                    f"{first}, numbers of different ones are not to be compared"
                )


def _decisive(one: Diversity) -> dict[str, Any]:
    facts = {key: getattr(one, key) for key in DECISIVE}
    return facts | {f"weights_sha256 of {name}": digest for name, digest in one.perceptual.items()}
