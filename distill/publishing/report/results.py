"""The parts of a run's report about `eval.json`: main numbers, glossary and table of results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

from distill.publishing.report.numbers import duration, short
from distill.publishing.run_record import numbers

ROLES = ("student", "teacher", "reference")


class Metric(NamedTuple):
    """The name of a number in eval.json, the direction that is better, and one sentence about it."""

    name: str
    better: str
    meaning: str


METRICS = {
    "precision": Metric(
        "Precision",
        "higher",
        "Share of the made images that lie among the real ones; it is low when images look wrong.",
    ),
    "recall": Metric(
        "Recall",
        "higher",
        "Share of the real images that lie among the made ones; "
        "it is low when some kinds of image are never made.",
    ),
    "label_agreement": Metric(
        "Label agreement",
        "higher",
        "Share of the made images in which a classifier sees the label that was asked for.",
    ),
    "diversity": Metric(
        "Diversity within a condition",
        "higher",
        "Variance of the images of one prompt or label, as a share of the training images' variance; 0 if a "
        "condition always gives the same image.",
    ),
    "memorised": Metric(
        "Memorised",
        "lower",
        "Share of the images that are nearer to a training image than to any held-out one; "
        "the reference says what real images would score.",
    ),
    "evaluations": Metric(
        "Network evaluations per image",
        "lower",
        "How many times the network runs to make one image; most of the cost.",
    ),
    "ms_per_image": Metric(
        "Milliseconds per image",
        "lower",
        "Time to make one image, in batches, on the machine named below.",
    ),
}
"""Metrics by their key in eval.json; `metrics_of` adds the protocol's own distance."""


def metrics_of(distance: str) -> dict[str, Metric]:
    """Return every metric of a protocol, its Fréchet distance first."""
    features = "their pixels" if distance == "fd_pixel" else f"their {distance.removeprefix('fd_')} features"
    meaning = (
        "How far apart the made and the real images are as populations, "
        f"by the mean and covariance of {features}; two equal ones are at 0."
    )
    return {distance: Metric(title_of(distance), "lower", meaning), **METRICS}


def title_of(distance: str) -> str:
    """Name a distance by its key in results: `fd_effnet` is the Fréchet distance (fd-effnet)."""
    return f"Fréchet distance ({distance.replace('_', '-')})"


def results_of(evaluation: Mapping[str, Any], role: str) -> dict[str, float]:
    """Collect all numbers of a role; those against held-out images are named `held_out/...`."""
    results = evaluation.get(role)
    found = numbers(results)
    if isinstance(results, Mapping):
        found |= {f"held_out/{key}": value for key, value in numbers(results.get("held_out")).items()}
    for key, value in numbers(evaluation.get("sampling")).items():
        if key.startswith(f"{role}_"):
            found[key.removeprefix(f"{role}_")] = value
    return found


def render_tiles(summary: Mapping[str, Any], distance: str) -> str:
    """Show the few numbers to take away, in large type."""
    tiles: list[tuple[str, str]] = []
    for role in ("student", "teacher"):
        if distance in summary.get(role, {}):
            tiles.append((short(summary[role][distance]), f"{role}'s {title_of(distance)}"))
    if "speedup" in summary.get("sampling", {}):
        tiles.append((short(summary["sampling"]["speedup"]), "times faster than the teacher"))
    if "seconds" in summary.get("train", {}):
        tiles.append((duration(summary["train"]["seconds"]), "of training"))
    if not tiles:
        return ""
    items = "".join(f"<li><b>{escape(value)}</b> {label}</li>" for value, label in tiles)
    return f'<ul class="tiles">{items}</ul>'


def render_glossary(evaluation: Mapping[str, Any], distance: str) -> str:
    """Explain each metric of an evaluation and say which direction is good."""
    measured = {key for role in ROLES for key in results_of(evaluation, role)}
    rows = [
        f"<div><dt>{escape(metric.name)} <span>{metric.better} is better</span></dt>"
        f"<dd>{escape(metric.meaning)}</dd></div>"
        for key, metric in metrics_of(distance).items()
        if key in measured
    ]
    return f'<dl class="glossary">{"".join(rows)}</dl>'


def render_table(evaluation: Mapping[str, Any], distance: str) -> str:
    """Show metrics by row and networks by column, the better one in bold; nothing without any."""
    results = {role: results_of(evaluation, role) for role in ROLES}
    groups = {
        "Against the training images": [distance, "precision", "recall"],
        "Against held-out images": [f"held_out/{key}" for key in (distance, "precision", "recall")],
        "The images by themselves": ["diversity", "label_agreement", "memorised"],
        "Sampling": ["evaluations", "ms_per_image"],
    }
    all_keys = {key for keys in groups.values() for key in keys}
    roles = [role for role in ROLES if all_keys & results[role].keys()]
    body = ""
    for title, keys in groups.items():
        rows = ""
        for key in keys:
            values = {role: results[role].get(key) for role in roles}
            if any(value is not None for value in values.values()):
                rows += _render_row(key, values, distance)
        if rows:
            head = f'<th colspan="{len(roles) + 1}" scope="rowgroup">{title}</th>'
            body += f'<tbody><tr class="group">{head}</tr>{rows}</tbody>'
    if not body:
        return ""
    heads = "".join(f'<th scope="col">{role.capitalize()}</th>' for role in roles)
    return f"<table><thead><tr><td></td>{heads}</tr></thead>{body}</table>"


def render_warnings(evaluation: Mapping[str, Any]) -> str:
    """Repeat the evaluation's warnings, and what could not be measured and why; nothing if there are none."""
    lines = [f"Warning: {warning}" for warning in evaluation.get("warnings") or ()]
    skipped = evaluation.get("skipped")
    if isinstance(skipped, Mapping):
        lines += [f"{name} was not measured: {reason}" for name, reason in skipped.items()]
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="doubts">{items}</ul>'


def _render_row(key: str, values: Mapping[str, float | None], distance: str) -> str:
    """Show one metric in one precision, with the exact values in `<data>` and the better network in bold."""
    metric = metrics_of(distance)[key.removeprefix("held_out/")]
    known = {role: value for role, value in values.items() if value is not None}
    digits = decimals_of(list(known.values()))
    rivals = {known[role] for role in ("student", "teacher") if role in known}
    best = None
    if len(rivals) == 2:
        best = min(rivals) if metric.better == "lower" else max(rivals)
    cells = ""
    for role, value in values.items():
        text = "-"
        if value is not None:
            text = f'<data value="{escape(json.dumps(value))}">{value:.{digits}f}</data>'
            if value == best and role != "reference":
                text = f"<b>{text}</b>"
        cells += f"<td>{text}</td>"
    head = f"{escape(metric.name)} <span>{metric.better} is better</span>"
    return f'<tr><th scope="row">{head}</th>{cells}</tr>'


def decimals_of(values: list[float]) -> int:
    """Choose the decimals that give the smallest value three significant digits, but at most four."""
    if all(float(value).is_integer() for value in values):
        return 0
    smallest = min((abs(value) for value in values if value and math.isfinite(value)), default=1.0)
    return min(4, max(0, 2 - math.floor(math.log10(smallest))))
