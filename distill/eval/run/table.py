"""The results of `python -m eval` as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from distill.eval.protocols import distance_key
from distill.eval.results.text_table import align
from distill.eval.run.results import ROLES, EvalResults

ROWS = {
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "diversity": ("diversity within a condition", "{:.3f}"),
    "label_agreement": ("label agreement", "{:.3f}"),
    "memorised": ("memorised", "{:.3f}"),
}


def render(results: EvalResults) -> str:
    """Write the results as lines of text.

    There is a row for each metric, and for each set of images a column against the training images and one
    against the held-out images.
    """
    reference = results["reference"]
    distance = distance_key(results["protocol"])
    columns: dict[str, Mapping[str, object]] = {role: results[role] for role in ROLES if role in results}
    if distance in reference:
        columns[f"{reference['held_out_images']} held-out"] = reference
    titles = [""]
    for role in columns:
        titles += [role, ""]
    cells = [titles, ["", *["vs train", "vs held-out"] * len(columns)]]
    rows = {distance: (f"Fréchet distance ({results['features']})", "{:.4f}"), **ROWS}
    for key, (name, form) in rows.items():
        row = [name]
        for column in columns.values():
            row += [_cell(column, key, form), _cell(column.get("held_out", {}), key, form)]
        cells.append(row)
    return "\n".join([_title(results), "", *align(cells), "", *_notes(results)])


def _cell(column: object, key: str, form: str) -> str:
    assert isinstance(column, Mapping)
    value = column.get(key)
    return "-" if value is None else form.format(value)


def _title(results: EvalResults) -> str:
    reference, seed = results["reference"], results["seed"]
    seeds = "" if seed is None else f", seeds {seed} to {seed + results['n'] - 1}"
    held_out = f" and {reference['held_out_images']} held-out" if "held_out_images" in reference else ""
    real = f"{reference['train_images']} training{held_out} images"
    return f"{results['protocol']}: {results['n']} images{seeds}; real: {real}"


def _notes(results: EvalResults) -> list[str]:
    """Write what a reader of the numbers must know."""
    reference = results["reference"]
    notes = []
    if "diversity" in reference:
        notes.append(f"diversity: training images of the same label have {reference['diversity']:.3f}")
    if "classifier_accuracy" in reference:
        accuracy = f"{reference['classifier_accuracy']:.1%} of the held-out images"
        notes.append(f"label agreement: the classifier is right on {accuracy}")
    if "memorised" in reference:
        deviation = max(results[role]["memorised_deviation"] for role in ROLES if role in results)
        expected = f"{reference['memorised']:.3f} ± {deviation:.3f}"
        notes.append(f"memorised: {expected} is expected where nothing is; more is copying")
    notes += _times(results)
    notes += [f"skipped: {metric}: {reason}" for metric, reason in results["skipped"].items()]
    return notes + [f"warning: {warning}" for warning in results["warnings"]]


def _times(results: EvalResults) -> list[str]:
    times = results.get("sampling")
    if times is None:
        return []
    lines = []
    for role in ROLES:
        milliseconds, evaluations = times.get(f"{role}_ms_per_image"), times.get(f"{role}_evaluations")
        if isinstance(milliseconds, float) and isinstance(evaluations, int):
            per_image = f"{milliseconds:.3g} ms an image, {evaluations} evaluation{'s' * (evaluations > 1)}"
            lines.append(f"sampling: {role} {per_image}, batches of {times['batch_size']}")
    if "speedup" in times:
        lines.append(f"sampling: the student is {times['speedup']:.1f} times faster")
    return lines
