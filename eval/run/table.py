"""An evaluation as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.protocols import distance_key

ROLES = ("student", "teacher", "images")
ROWS = {
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "label_agreement": ("label agreement", "{:.3f}"),
    "memorised": ("memorised", "{:.3f}"),
}


def render(results: Mapping[str, Any]) -> str:
    """The results of `eval.run.evaluate.evaluate` as lines of text: a row for each metric, and for each set of images a column against the
    training images and one against the held-out ones."""
    reference, distance = results["reference"], distance_key(results["protocol"])
    columns = {role: results[role] for role in ROLES if role in results}
    if distance in reference:
        columns[f"{reference['held_out_images']} held-out"] = reference
    cells = [
        [""] + [title for role in columns for title in (role, "")],
        [""] + ["vs train", "vs held-out"] * len(columns),
    ]
    for key, (name, form) in {
        distance: (f"Fréchet distance ({results['features']})", "{:.4f}"),
        **ROWS,
    }.items():
        sides = [
            side.get(key) for column in columns.values() for side in (column, column.get("held_out", {}))
        ]
        cells.append([name, *("-" if value is None else form.format(value) for value in sides)])
    return "\n".join([_title(results), "", *aligned(cells), "", *_notes(results)])


def _title(results: Mapping[str, Any]) -> str:
    reference, seed = results["reference"], results["seed"]
    seeds = "" if seed is None else f", seeds {seed} to {seed + results['n'] - 1}"
    held_out = f" and {reference['held_out_images']} held-out" if "held_out_images" in reference else ""
    return f"{results['protocol']}: {results['n']} images{seeds}; real: {reference['train_images']} training{held_out} images"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    lines = [
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
    return [line.rstrip() for line in lines]


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What the numbers must be read with."""
    reference, times = results["reference"], results.get("sampling", {})
    notes = []
    if "classifier_accuracy" in reference:
        notes.append(
            f"label agreement: the classifier is right on {reference['classifier_accuracy']:.1%} of the held-out images"
        )
    if "memorised" in reference:
        deviation = max(results[role]["memorised_deviation"] for role in ROLES if role in results)
        notes.append(
            f"memorised: {reference['memorised']:.3f} ± {deviation:.3f} is expected where nothing is; more is copying"
        )
    for role in ROLES:
        if f"{role}_ms_per_image" in times:
            evaluations = times[f"{role}_evaluations"]
            per_image = f"{times[f'{role}_ms_per_image']:.3g} ms an image, {evaluations} evaluation{'s' * (evaluations > 1)}"
            notes.append(f"sampling: {role} {per_image}, batches of {times['batch_size']}")
    if "speedup" in times:
        notes.append(f"sampling: the student is {times['speedup']:.1f} times faster")
    notes += [f"skipped: {metric}: {reason}" for metric, reason in results["skipped"].items()]
    return notes + [f"warning: {warning}" for warning in results["warnings"]]
