"""The part of a run's report about `preference.json`: tables of preference scores, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from distill.publishing.report import charts
from distill.publishing.report.numbers import short
from distill.publishing.report.tables import render_table


def render_preference(folder: Path, preference: Mapping[str, Any]) -> str:
    """Show the preference scores of a run; nothing if none were measured."""
    scores = preference.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        return ""
    figures = ""
    for score in scores.values():
        caption = f"{score['title']}|best, median and worst prompts"
        figures += charts.image(folder / Path(str(score.get("sheet"))).name, caption, "wide") or ""
    note = f'<p class="note">{escape(_conditions(preference))}</p>'
    return f"{note}{_render_totals(preference)}{_render_categories(preference)}{figures}"


def _conditions(preference: Mapping[str, Any]) -> str:
    """State the conditions of the scores, without which they cannot be compared."""
    prompts = preference["prompts"]
    deviations = f", {'; '.join(prompts['departures'])}" if prompts["departures"] else ""
    each = "an image each" if preference["per_prompt"] == 1 else f"{preference['per_prompt']} images each"
    against = ""
    if "against" in preference:
        against = f", against {preference['against']['of']} on the same prompts"
    error = f"± is the standard error, of {preference['independent']} independent draws"
    conventions = dict.fromkeys(str(score["convention"]) for score in preference["scores"].values())
    notes = [f"Note: {note}." for note in preference["notes"]]
    stated = (
        f"Means over {prompts['count']} prompts of {prompts['set']}{deviations}, {each}{against}; {error}."
    )
    return f"{stated} {' '.join(conventions)} {' '.join(notes)}".strip()


def _render_totals(preference: Mapping[str, Any]) -> str:
    """Show a row for each score and for each scale that papers print it in."""
    is_paired = "against" in preference
    rows: list[tuple[str, list[str]]] = []
    for score in preference["scores"].values():
        for name, scale in ((score["title"], 1.0), *score["also"].items()):
            cells = [with_error(score["mean"], score["standard_error"], scale)]
            if is_paired:
                other = score["against"]
                cells.append(with_error(other["mean"], other["standard_error"], scale))
                cells.append(say_wins(other) if scale == 1 else "")
            rows.append((name, cells))
    heads = ["This run", "The other", "Wins [95 %]"] if is_paired else ["This run"]
    return render_table("Score", heads, rows)


def _render_categories(preference: Mapping[str, Any]) -> str:
    """Show a row for each category and a column for each score; nothing with fewer than two categories.

    A cell is the mean, or against a second model the share of wins.
    """
    scores = list(preference["scores"].values())
    categories = scores[0]["by_category"]
    if len(categories) < 2:
        return ""
    is_paired = "against" in preference
    rows: list[tuple[str, list[str]]] = []
    for name, category in categories.items():
        found = [score["by_category"][name] for score in scores]
        if is_paired:
            cells = [say_wins(one["against"]) for one in found]
        else:
            cells = [with_error(one["mean"], one["standard_error"]) for one in found]
        rows.append((f"{name} ({category['count']})", cells))
    title = "Wins by category" if is_paired else "Mean by category"
    return render_table(title, [score["title"] for score in scores], rows)


def with_error(mean: float, error: float | None, scale: float = 1.0) -> str:
    """Format a mean and its error, both to the error's second significant digit."""
    if not error:
        return short(mean * scale, 4)
    decimals = max(0, 1 - math.floor(math.log10(error * scale)))
    return f"{mean * scale:.{decimals}f} ± {error * scale:.{decimals}f}"


def say_wins(compared: Mapping[str, Any]) -> str:
    """Format the share of prompts that the run wins, with its interval."""
    low, high = compared["win_interval"]
    return f"{compared['win_rate']:.1%} [{low:.1%}, {high:.1%}]"
