"""What a run's report says of `preference.json`: the scores, by category, how often the run wins, and the contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from distill.publishing.report import charts


def preference_of(folder: Path, preference: Mapping[str, Any]) -> str:
    """The tables and pictures of a run's preference scores; empty where none were measured."""
    scores = preference.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        return ""
    sheets = [
        charts.image(
            folder / Path(str(score.get("sheet"))).name, f"{score['title']}|best, median and worst prompts"
        )
        for score in scores.values()
    ]
    figures = "".join(figure.replace("<figure>", '<figure class="wide">', 1) for figure in sheets if figure)
    return f'<p class="note">{escape(_conditions(preference))}</p>{_totals(preference)}{_by_category(preference)}{figures}'


def _conditions(preference: Mapping[str, Any]) -> str:
    """Without these the numbers cannot be compared."""
    prompts = preference["prompts"]
    departures = f", {'; '.join(prompts['departures'])}" if prompts["departures"] else ""
    each = "an image each" if preference["per_prompt"] == 1 else f"{preference['per_prompt']} images each"
    against = (
        f", against {preference['against']['of']} on the same prompts" if "against" in preference else ""
    )
    conventions = " ".join(dict.fromkeys(str(score["convention"]) for score in preference["scores"].values()))
    error = f"± is the standard error, of {preference['independent']} independent draws"
    stated = (
        f"Means over {prompts['count']} prompts of {prompts['set']}{departures}, {each}{against}; {error}."
    )
    return f"{stated} {conventions} {' '.join(f'Note: {note}.' for note in preference['notes'])}".strip()


def _totals(preference: Mapping[str, Any]) -> str:
    """A row for each score and for each scale that papers print it in."""
    paired = "against" in preference
    rows = []
    for score in preference["scores"].values():
        for name, scale in ((score["title"], 1.0), *score["also"].items()):
            cells = [_with_error(score["mean"], score["standard_error"], scale)]
            if paired:
                second = score["against"]
                cells += [
                    _with_error(second["mean"], second["standard_error"], scale),
                    _wins(second) if scale == 1 else "",
                ]
            rows.append((name, cells))
    return _table("Score", ["This run", *(["The other", "Wins [95 %]"] if paired else [])], rows)


def _by_category(preference: Mapping[str, Any]) -> str:
    """A row for each category and a column for each score: its mean, or with a second model how often the run wins; empty of fewer than two."""
    scores = list(preference["scores"].values())
    categories = scores[0]["by_category"]
    if len(categories) < 2:
        return ""
    write = (
        (lambda one: _wins(one["against"]))
        if "against" in preference
        else (lambda one: _with_error(one["mean"], one["standard_error"]))
    )
    rows = [
        (f"{name} ({one['count']})", [write(score["by_category"][name]) for score in scores])
        for name, one in categories.items()
    ]
    return _table(
        "Wins by category" if "against" in preference else "Mean by category",
        [score["title"] for score in scores],
        rows,
    )


def _table(title: str, heads: list[str], rows: list[tuple[str, list[str]]]) -> str:
    head = f'<th scope="col" style="padding-left: 0; text-align: left">{escape(title)}</th>'
    head += "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p></p>"


def _with_error(mean: float, error: float | None, scale: float = 1.0) -> str:
    """Two digits of the error that count, and as many of the mean."""
    if not error:
        return charts.short(mean * scale, 4)
    decimals = max(0, 1 - math.floor(math.log10(error * scale)))
    return f"{mean * scale:.{decimals}f} ± {error * scale:.{decimals}f}"


def _wins(compared: Mapping[str, Any]) -> str:
    low, high = compared["win_interval"]
    return f"{compared['win_rate']:.1%} [{low:.1%}, {high:.1%}]"
