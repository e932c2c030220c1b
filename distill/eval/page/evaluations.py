"""The eval.json of several runs side by side: their numbers, and the grids of images beside the files."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

from distill.config.errors import UserError
from distill.eval.results.file import shortened
from distill.eval.results.names import distinct_names
from distill.eval.run.results import ROLES, EvalResults, Role
from distill.publishing.report import charts
from distill.publishing.report.results import decimals_of, metrics_of, results_of
from distill.publishing.report.tables import bold_best, render_table

HELD_OUT = "held_out/"


class Column(NamedTuple):
    """A network or a set of images of one run."""

    file: str
    role: Role


def render_evaluations(results: Mapping[str, EvalResults], names: Mapping[str, str], limit: int) -> str:
    """Show a table of runs for each protocol, and the grids of images, within a limit of bytes."""
    by_protocol: dict[str, dict[str, EvalResults]] = {}
    for path, one in results.items():
        by_protocol.setdefault(one["protocol"], {})[path] = one
    tables = "".join(_render_protocol(one, names) for one in by_protocol.values())
    return tables + _render_grids(results, names, limit)


def check_comparable(results: Mapping[str, EvalResults]) -> None:
    """Refuse results of one protocol that are of other numbers of images or of other real images."""
    first, *others = results
    expected = _identity(results[first])
    for other in others:
        for key, value in _identity(results[other]).items():
            if value != expected.get(key, value):
                raise UserError(
                    f"{other}: {key} is {shortened(value)}; expected {shortened(expected[key])} "
                    f"as in {first}, numbers of different ones are not to be compared"
                )


def _identity(results: EvalResults) -> dict[str, object]:
    """Collect what makes the numbers of a run comparable with another's."""
    real = {key: value for key, value in results["hashes"].items() if key.startswith("real_")}
    return {"n": results["n"], **{f"hashes.{key}": value for key, value in real.items()}}


def _columns(results: Mapping[str, EvalResults]) -> list[Column]:
    """Return the sets of images that were measured; images that several files have, as a teacher's, once."""
    seen: set[str] = set()
    columns = []
    for path, one in results.items():
        for role in ROLES:
            digest = one["hashes"].get(role, f"{path} {role}")
            if role in one and digest not in seen:
                seen.add(digest)
                columns.append(Column(path, role))
    return columns


def _titles(columns: list[Column], names: Mapping[str, str]) -> dict[Column, str]:
    """Name each column by its run, and by its role unless it is the student."""
    runs = distinct_names({file: names.get(file, _name_of(file)) for file, _ in columns})
    return {
        column: runs[column.file] + ("" if column.role == "student" else f": {column.role}")
        for column in columns
    }


def _name_of(file: str) -> str:
    """Return the name of the run's folder."""
    return Path(file).resolve().parent.name or file


def _render_protocol(results: Mapping[str, EvalResults], names: Mapping[str, str]) -> str:
    check_comparable(results)
    columns = _columns(results)
    titles = _titles(columns, names)
    first = next(iter(results.values()))
    distance = first["protocol"].replace("-", "_")
    metrics = metrics_of(distance)
    numbers = {
        column: results_of(cast(Mapping[str, Any], results[column.file]), column.role) for column in columns
    }
    rows = []
    for key in dict.fromkeys([*metrics, *(f"{HELD_OUT}{name}" for name in metrics)]):
        values = [numbers[column].get(key) for column in columns]
        known = [value for value in values if value is not None]
        if known:
            metric = metrics[key.removeprefix(HELD_OUT)]
            digits = decimals_of(known)
            texts = ["-" if value is None else f"{value:.{digits}f}" for value in values]
            title = metric.name + (" (held-out images)" if key.startswith(HELD_OUT) else "")
            rows.append((title, bold_best(values, texts, metric.better == "lower")))
    note = (
        f"{first['n']} images of each against {first['reference']['train_images']} training images, "
        f"{first['protocol']}."
    )
    warnings = dict.fromkeys(
        f"{titles[column]}: {warning}"
        for column in columns
        if column.role != "teacher"
        for warning in results[column.file]["warnings"]
    )
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    listed = f'<ul class="notes">{items}</ul>' if items else ""
    table = render_table(first["protocol"], list(titles.values()), rows)
    return f'<p class="note">{escape(note)}</p>{table}{listed}'


def _render_grids(results: Mapping[str, EvalResults], names: Mapping[str, str], limit: int) -> str:
    """Show the grids that `python -m eval --run` wrote beside eval.json, as many as the limit allows."""
    columns = _columns(results)
    figures: list[str] = []
    left_out = 0
    used = 0
    for column, title in _titles(columns, names).items():
        path = Path(column.file).with_name("eval") / f"{column.role}.png"
        figure = charts.image(path, f"{title}|")
        if figure is None:
            continue
        used += len(figure)
        if used > limit:
            left_out += 1
        else:
            figures.append(figure)
    text = f"{left_out} grids of images are left out: they would exceed the limit (--max-mb)."
    note = f'<p class="missing">{text}</p>' if left_out else ""
    return f'<div class="row grids">{"".join(figures)}</div>{note}' if figures or left_out else ""
