"""The results of `python -m eval fid` as a table, and as a line for a paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import read_json
from eval.table import aligned

FORMAT = "distill-fid/1"
ROWS = {
    "fd": ("{metric}", "distance", "{:.4f}"),
    "fd_limit": ("{metric}, infinitely many images", "limit", "{:.4f}"),
    "kid": ("KID x 1000", "KID x 1000", "{:.4f}"),
    "is": ("Inception score", "IS", "{:.3f}"),
    "precision": ("precision", "precision", "{:.3f}"),
    "recall": ("recall", "recall", "{:.3f}"),
    "density": ("density", "density", "{:.3f}"),
    "coverage": ("coverage", "coverage", "{:.3f}"),
}
"""The numbers' names, long and short, and how they are written."""
SCALES = {"kid": 1000.0}
SAME = ("protocol", "preprocessing_sha256", "weights_sha256", "n")
"""What two results must have in common to be compared, besides the reference."""


def render(results: Mapping[str, Any]) -> str:
    """A row for each number, what it must be read with, and the line."""
    lines = [f"{label(results)}: {results['source']['of']}, {results['n']} images{cost(results)}{_seeds(results)}", ""]
    lines += [f"{name.format(metric=results['metric']):<42}{cell}" for key, (name, _, _) in ROWS.items() if (cell := _cell(results, key))]
    lines += ["", f"reference: {results['reference']['of']}, {results['reference']['kind']}, sha256 {results['reference']['sha256'][:16]}"]
    by_label = results["repetitions"][0].get("per_label")
    if by_label:
        lines.append("by label: " + ", ".join(f"{name} {value:.4g}" for name, value in by_label.items()))
    lines += [f"skipped: {name}: {reason}" for name, reason in results["skipped"].items()]
    lines += [f"warning: {warning}" for warning in results["warnings"]]
    return "\n".join([*lines, "", paper_line(results)])


def label(results: Mapping[str, Any]) -> str:
    """The protocol's name, or that the number is not it."""
    return f"not {results['protocol']} ({'; '.join(results['departures'])})" if results["departures"] else results["protocol"]


def cost(results: Mapping[str, Any]) -> str:
    """The network evaluations of an image, where they were made here."""
    evaluations = results["source"].get("evaluations")
    return "" if evaluations is None else f", {evaluations} evaluation{'s' * (evaluations > 1)} an image"


def paper_line(results: Mapping[str, Any]) -> str:
    """Metric, protocol, count, seeds, number, hashes and commit in one line."""
    fd = results["summary"]["fd"]
    spread = f" ± {fd['std']:.4f} (min {fd['min']:.4f})" if len(results["repetitions"]) > 1 else ""
    hashes = f"reference {results['reference']['sha256'][:12]}, weights {results['weights_sha256'][:12]}"
    made = f"n = {results['n']}{cost(results)}{_seeds(results)}"
    return f"{results['metric']} {fd['mean']:.4f}{spread}; {label(results)}, {made}; {hashes}, commit {results['commit']}"


def read_results(path: Path) -> dict[str, Any]:
    """Results that `fid` wrote. Raises UserError where the file holds something else."""
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise UserError(f"{path}: is not of the format '{FORMAT}'; expected what python -m eval fid --out writes")
    return results


def compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Several results, by the names of their files, in a table. Raises UserError, naming the first difference, where they are not comparable."""
    first, *others = results
    for other in others:
        for key in (*SAME, "reference"):
            a, b = (results[name][key]["sha256"] if key == "reference" else results[name][key] for name in (first, other))
            if a != b:
                raise UserError(f"{other}: {key} is {b}; expected {a} as in {first}, numbers of different ones are not to be compared")
    keys = [key for key in ROWS if all(key in one["summary"] for one in results.values())]
    cells = [["", *(ROWS[key][1] for key in keys)], *([name, *(_cell(one, key) for key in keys)] for name, one in results.items())]
    return "\n".join([f"{label(results[first])}: {results[first]['n']} images", "", *aligned(cells)])


def _cell(results: Mapping[str, Any], key: str) -> str:
    found = results["summary"].get(key)
    if found is None:
        return ""
    form, scale = ROWS[key][2], SCALES.get(key, 1.0)
    if len(results["repetitions"]) > 1:
        return f"{form.format(found['mean'] * scale)} ± {form.format(found['std'] * scale)} (min {form.format(found['min'] * scale)})"
    deviation = results["repetitions"][0].get(f"{key}_deviation")
    return form.format(found["mean"] * scale) + ("" if deviation is None else f" ± {form.format(deviation * scale)}")


def _seeds(results: Mapping[str, Any]) -> str:
    seeds = results["first_seeds"]
    return "" if seeds is None else f", first seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
