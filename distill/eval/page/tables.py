"""Tables of a page: mean scores, distances under protocols, and the numbers of evaluated runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from distill.eval.fid import comparison as of_fid
from distill.eval.fid.results import FidResults
from distill.eval.fid.table import ROWS, cell, label
from distill.eval.page.models import Comparison, Model
from distill.eval.results.names import distinct_names
from distill.publishing.report.preference import say_wins, with_error
from distill.publishing.report.tables import bold_best, render_table

WINS = "wins [95 %]"
DIFFERENCE = "difference"
SUB = (WINS, DIFFERENCE)
"""Rows that belong to the score above them."""
LOWER_IS_BETTER = ("fd", "fdr", "fd_limit", "cmmd", "kid")
"""Statistics of `fid` of which the lowest is in bold."""


def render_means(comparison: Comparison) -> str:
    """Show the mean of each score by model, on every printed scale, and the wins against the first model."""
    rows: list[tuple[str, Sequence[str]]] = []
    sub = list(SUB)
    for name, facts in comparison.scores.items():
        known = [model.score(name) for model in comparison.models]
        means = [None if score is None else score["mean"] for score in known]
        for title, scale in ((facts["title"], 1.0), *facts["also"].items()):
            texts = [
                "-" if score is None else with_error(score["mean"], score["standard_error"], scale)
                for score in known
            ]
            rows.append((title, bold_best(means, texts)))
        measures = _measure_rows(comparison, name)
        sub += [title for title, _ in measures]
        rows += measures
        rows += _pair_rows(comparison, name)
    table = render_table("Mean ± standard error", [model.name for model in comparison.models], rows, sub)
    if len(comparison.models) == 1:
        return table
    first = comparison.models[0].name
    note = f"Bold: the highest. Wins, ties counting half, and differences are against {first}."
    return f'{table}<p class="note">{escape(note)}</p>'


def _measure_rows(comparison: Comparison, name: str) -> list[tuple[str, list[str]]]:
    """Show the measures of a benchmark, which may weigh prompts otherwise; nothing for other scores."""
    found = [
        {title: (value, error) for title, value, error in model.measures(name)} for model in comparison.models
    ]
    rows = []
    for title in dict.fromkeys(title for measures in found for title in measures):
        known = [measures.get(title) for measures in found]
        texts = ["-" if one is None else with_error(*one) for one in known]
        rows.append((title, bold_best([None if one is None else one[0] for one in known], texts)))
    return rows


def _pair_rows(comparison: Comparison, name: str) -> list[tuple[str, list[str]]]:
    """Show how often and by how much the others score higher than the first model; nothing for one model."""
    pairs = [comparison.paired(model, name) for model in comparison.models]
    if not any(pairs):
        return []
    wins = ["-" if pair is None else escape(say_wins(pair)) for pair in pairs]
    differences = [
        "-" if pair is None else escape(with_error(pair["difference"], pair["difference_error"]))
        for pair in pairs
    ]
    return [(WINS, wins), (DIFFERENCE, differences)]


def render_categories(comparison: Comparison) -> str:
    """Show the means of each category, one table for each score; nothing with fewer than two categories."""
    categories = list(dict.fromkeys(name for name in comparison.categories if name is not None))
    if len(categories) < 2:
        return ""
    tables = ""
    for name, facts in comparison.scores.items():
        rows = [(category, _category_cells(comparison.models, name, category)) for category in categories]
        tables += render_table(
            f"{facts['title']} by category", [model.name for model in comparison.models], rows
        )
    return f"<details><summary>Means by category</summary>{tables}</details>"


def _category_cells(models: Sequence[Model], score: str, category: str) -> list[str]:
    values: list[float | None] = []
    texts: list[str] = []
    for model in models:
        known = model.score(score)
        found = None if known is None else known["by_category"].get(category)
        values.append(None if found is None else found["mean"])
        texts.append("-" if found is None else with_error(found["mean"], found["standard_error"]))
    return bold_best(values, texts)


def render_distances(results: Mapping[str, Mapping[str, FidResults]], names: Mapping[str, str]) -> str:
    """Show the results of `fid`, a table for each protocol, with the notes that `compare` prints."""
    return "".join(_render_protocol(protocol, one, names) for protocol, one in results.items())


def _render_protocol(protocol: str, results: Mapping[str, FidResults], names: Mapping[str, str]) -> str:
    of_fid.check_comparable(results)
    origins = {path: names.get(path, str(one["source"].get("of", path))) for path, one in results.items()}
    shown = distinct_names(origins)
    named = {shown[path]: one for path, one in results.items()}
    marks = of_fid.marks_of(named)
    heads = [" ".join([name, *(f"[{number}]" for number in marks.rows[name])]) for name in named]
    rows: list[tuple[str, Sequence[str]]] = []
    left_out = ["fdr"] if of_fid.has_several_units(named) else []
    for key, (title, _, _) in ROWS.items():
        if key not in left_out and any(key in one["summary"] for one in named.values()):
            found = [one["summary"].get(key) for one in named.values()]
            means = [None if spread is None else spread["mean"] for spread in found]
            texts = [cell(one, key) or "-" for one in named.values()]
            metric = next(iter(named.values()))["metric"]
            rows.append((title.format(metric=metric), bold_best(means, texts, key in LOWER_IS_BETTER)))
    count = next(iter(named.values()))["n"]
    text = f"{count} images of each, compared with the same real images under the protocol {protocol}."
    notes = "".join(f"<li>[{number}] {escape(note)}</li>" for note, number in marks.notes.items())
    departures = {name: label(one) for name, one in named.items() if one["departures"]}
    notes += "".join(f"<li>{escape(name)}: {escape(what)}</li>" for name, what in departures.items())
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    return f'<p class="note">{escape(text)}</p>{render_table(protocol, heads, rows)}{listed}'
