"""What a run's report says of `eval.json`: the few numbers to take away, what each metric is, and the table of results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from distill.publishing.report.charts import duration, short
from distill.publishing.run_record import numbers

ROLES = ("student", "teacher", "reference")
# key in eval.json: its name, which direction is better, what it is in one sentence; the protocol's own distance is added by `metrics_of`
METRICS = {
    "precision": (
        "Precision",
        "higher",
        "Share of the made images that lie among the real ones; it is low when images look wrong.",
    ),
    "recall": (
        "Recall",
        "higher",
        "Share of the real images that lie among the made ones; it is low when some kinds of image are never made.",
    ),
    "label_agreement": (
        "Label agreement",
        "higher",
        "Share of the made images in which a classifier sees the label that was asked for.",
    ),
    "memorised": (
        "Memorised",
        "lower",
        "Share of the images that are nearer to a training image than to any held-out one; the reference says what real images would score.",
    ),
    "evaluations": (
        "Network evaluations per image",
        "lower",
        "How many times the network runs to make one image; most of the cost.",
    ),
    "ms_per_image": (
        "Milliseconds per image",
        "lower",
        "Time to make one image, in batches, on the machine named below.",
    ),
}


def tiles(summary: Mapping[str, Any], distance: str) -> str:
    """The few numbers to take away, large."""
    name = f"Fréchet distance ({distance.replace('_', '-')})"
    distances = [(summary.get(role, {}).get(distance), f"{role}'s {name}") for role in ("student", "teacher")]
    found = [*distances, (summary.get("sampling", {}).get("speedup"), "times faster than the teacher")]
    shown = [(short(value), label) for value, label in found if value is not None]
    shown += (
        [(duration(summary["train"]["seconds"]), "of training")]
        if "seconds" in summary.get("train", {})
        else []
    )
    return (
        f'<ul class="tiles">{"".join(f"<li><b>{escape(value)}</b> {label}</li>" for value, label in shown)}</ul>'
        if shown
        else ""
    )


def metrics_of(distance: str) -> dict[str, tuple[str, str, str]]:
    """Every metric of a protocol, its Fréchet distance first."""
    features = "their pixels" if distance == "fd_pixel" else f"their {distance.removeprefix('fd_')} features"
    what = f"How far apart the made and the real images are as populations, by the mean and covariance of {features}; two equal ones are at 0."
    return {distance: (f"Fréchet distance ({distance.replace('_', '-')})", "lower", what), **METRICS}


def results_of(evaluation: Mapping[str, Any], role: str) -> dict[str, float]:
    """All numbers of the student, teacher or reference in one mapping; those against held-out images as `held_out/...`."""
    results = evaluation.get(role)
    held_out = numbers(results.get("held_out")) if isinstance(results, Mapping) else {}
    speed = {
        key.removeprefix(f"{role}_"): value
        for key, value in numbers(evaluation.get("sampling")).items()
        if key.startswith(f"{role}_")
    }
    return {**numbers(results), **{f"held_out/{key}": value for key, value in held_out.items()}, **speed}


def glossary(evaluation: Mapping[str, Any], distance: str) -> str:
    """What each metric of this evaluation is and which direction is good."""
    measured = {key for role in ROLES for key in results_of(evaluation, role)}
    known = [entry for key, entry in metrics_of(distance).items() if key in measured]
    rows = [
        f"<div><dt>{escape(name)} <span>{better} is better</span></dt><dd>{escape(what)}</dd></div>"
        for name, better, what in known
    ]
    return f'<dl class="glossary">{"".join(rows)}</dl>'


def results_table(evaluation: Mapping[str, Any], distance: str) -> str:
    """Metrics by row, student and teacher by column, the better of the two in bold; empty where nothing was evaluated."""
    results = {role: results_of(evaluation, role) for role in ROLES}
    groups = {
        "Against the training images": [distance, "precision", "recall"],
        "Against held-out images": [f"held_out/{key}" for key in (distance, "precision", "recall")],
        "The images by themselves": ["label_agreement", "memorised"],
        "Sampling": ["evaluations", "ms_per_image"],
    }
    shown = [role for role in ROLES if any(key in results[role] for keys in groups.values() for key in keys)]
    body = ""
    for group, keys in groups.items():
        found = {
            key: {role: results[role].get(key) for role in shown}
            for key in keys
            if any(key in results[role] for role in shown)
        }
        rows = "".join(row(key, values, distance) for key, values in found.items())
        body += (
            f'<tbody><tr class="group"><th colspan="{len(shown) + 1}" scope="rowgroup">{group}</th></tr>{rows}</tbody>'
            if rows
            else ""
        )
    heads = "".join(f'<th scope="col">{role.capitalize()}</th>' for role in shown)
    return f"<table><thead><tr><td></td>{heads}</tr></thead>{body}</table>" if body else ""


def doubts(evaluation: Mapping[str, Any]) -> str:
    """What the terminal warned of, and what could not be measured and why; empty where there is neither."""
    skipped = evaluation.get("skipped")
    lines = [str(warning) for warning in evaluation.get("warnings") or ()]
    lines += (
        [f"{name} was not measured: {reason}" for name, reason in skipped.items()]
        if isinstance(skipped, Mapping)
        else []
    )
    return f'<ul class="doubts">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def row(key: str, values: Mapping[str, float | None], distance: str) -> str:
    """One metric: three significant digits of its smallest value, the exact values in `<data>`, the better network in bold."""
    name, better, _ = metrics_of(distance)[key.removeprefix("held_out/")]
    known = {role: value for role, value in values.items() if value is not None}
    smallest = min((abs(value) for value in known.values() if value and math.isfinite(value)), default=1.0)
    digits = (
        0
        if all(float(value).is_integer() for value in known.values())
        else min(4, max(0, 2 - math.floor(math.log10(smallest))))
    )
    rivals = {known[role] for role in ("student", "teacher") if role in known}
    best = (min if better == "lower" else max)(rivals) if len(rivals) == 2 else None
    cells = ""
    for role, value in values.items():
        text = (
            "-" if value is None else f'<data value="{escape(json.dumps(value))}">{value:.{digits}f}</data>'
        )
        cells += f"<td>{f'<b>{text}</b>' if value is not None and value == best and role != 'reference' else text}</td>"
    return f'<tr><th scope="row">{escape(name)} <span>{better} is better</span></th>{cells}</tr>'
