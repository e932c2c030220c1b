"""The results of several protocols as one table for the terminal: a row for each."""

from __future__ import annotations

from distill.eval.fid.results import FidResults
from distill.eval.fid.sets.results import FidSetResults
from distill.eval.fid.table import ROWS, cell, cost, describe_real, label, notes, paper_line
from distill.eval.results.text_table import align

COLUMNS = ("fd", "fdr", "fd_limit", "kid", "cmmd", "precision", "recall")


def render_set(results: FidSetResults) -> str:
    """Write a row for each protocol, the mean of FDr, notes, and a line for a paper for each protocol."""
    every = list(results["results"].values())
    first = every[0]
    columns = [key for key in COLUMNS if any(key in one["summary"] for one in every)]
    cells = [["", "images", *(ROWS[key][1] for key in columns), ""]]
    for one in every:
        mark = "trained on" if "trained" in one else ""
        cells.append([one["protocol"], str(one["n"]), *(cell(one, key) for key in columns), mark])
    lines = [f"{first['source']['of']}{cost(first)}", "", *align(cells)]
    mean = results.get("fdr_mean")
    if mean is not None:
        names = ", ".join(mean["protocols"])
        lines += ["", f"FDr, mean of {len(mean['protocols'])} features: {mean['value']:.4f} ({names})"]
    lines += ["", *_grouped_notes(every), ""]
    return "\n".join([*lines, *(paper_line(one) for one in every)])


def _grouped_notes(every: list[FidResults]) -> list[str]:
    """Write every note once, before the protocols that it is about, unless it is about all."""
    about: dict[str, list[str]] = {}
    for one in every:
        departures = [] if not one["departures"] else [label(one)]
        for note in [*departures, *describe_real(one), *notes(one)]:
            about.setdefault(note, []).append(one["protocol"])
    return [
        note if len(names) == len(every) else f"{', '.join(names)}: {note}" for note, names in about.items()
    ]
