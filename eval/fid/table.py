"""The results of `python -m eval fid` as a table, and as a line for a paper."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from distill.config.errors import UserError
from eval.protocols import seeds
from eval.results_file import Part, Spread, read_results_of
from eval.run.table import aligned

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
OTHERS = {"neighbours": "precision, recall, density, coverage", "per_label": "by label"}
"""Statistics that come together, or in a line of their own."""
SCALES = {"kid": 1000.0}
SPREADS = {
    "fd": "by the bootstrap",
    "fd_limit": "by the fit of its line",
    "kid": "over its blocks",
    "is": "over ten parts",
}
"""What the deviations of a single repetition are of."""
SAME = ("protocol", "preprocessing_sha256", "weights_sha256", "n")
"""What two results must have in common to be compared, besides the reference and, where both are known, the prompts."""


class _Reference(Part):
    sha256: str


class _Source(Part):
    prompts_sha256: str | None = None
    lossy: int | None = None


class _Repetition(Part):
    images_sha256: str | None = None
    fd_deviation: float | None = None
    fd_limit_deviation: float | None = None
    kid_deviation: float | None = None
    is_deviation: float | None = None


class _Results(Part):
    protocol: str
    preprocessing_sha256: str
    weights_sha256: str
    n: PositiveInt
    reference: _Reference
    source: _Source
    departures: list[str]
    first_seeds: list[int] | None = None
    summary: dict[str, Spread]
    repetitions: list[_Repetition] = Field(min_length=1)


def render(results: Mapping[str, Any]) -> str:
    """A row for each number, what it must be read with, and the line."""
    lines = [
        f"{label(results)}: {results['source']['of']}, {results['n']} images{cost(results)}{_seeds(results)}",
        "",
    ]
    lines += [
        f"{name.format(metric=results['metric']):<42}{cell}"
        for key, (name, _, _) in ROWS.items()
        if (cell := _cell(results, key))
    ]
    lines += [
        *_spread(results),
        "",
        f"reference: {results['reference']['of']}, {results['reference']['kind']}, sha256 {results['reference']['sha256'][:16]}",
    ]
    by_label = results["repetitions"][0].get("per_label")
    if by_label:
        lines.append("by label: " + ", ".join(f"{name} {value:.4g}" for name, value in by_label.items()))
    lines += [f"skipped: {_named(name, results)}: {reason}" for name, reason in results["skipped"].items()]
    interval = results["repetitions"][0].get("kid_interval")
    if interval:
        low, high = (1000 * bound for bound in interval)
        lines.append(
            f"KID x 1000: {low:.4f} to {high:.4f} with a confidence of 95 % (Student's t over its blocks)"
        )
    lines += [f"warning: {warning}" for warning in results["warnings"]]
    return "\n".join([*lines, "", paper_line(results)])


def label(results: Mapping[str, Any]) -> str:
    """The protocol's name, or that the number is not it."""
    return (
        f"not {results['protocol']} ({'; '.join(results['departures'])})"
        if results["departures"]
        else results["protocol"]
    )


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
    """Results that `fid` wrote. Raises UserError, naming the first part that does not fit, where the file holds something else."""
    return read_results_of("fid", path, FORMAT, _Results)[0]


def compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Several results, by the names of their files, in a table, each row with its own label; under it what the rows must be read with.

    Raises UserError, naming the first difference, where numbers are not comparable.
    """
    first, *others = results
    for name, one in results.items():
        _refuse_repeated(name, one)
    expected = _identity(results[first])
    for other in others:
        found = _identity(results[other])
        for key in (key for key in expected if key in found):
            if found[key] != expected[key]:
                raise UserError(
                    f"{other}: {key} is {found[key]}; expected {expected[key]} as in {first}, numbers of different ones are not to be compared"
                )
    keys = [key for key in ROWS if all(key in one["summary"] for one in results.values())]
    marks = _marks(results)
    names = {
        name: f"{name} {' '.join(f'[{number}]' for number in numbers)}".rstrip()
        for name, numbers in marks.rows.items()
    }
    cells = [["", "of", *(ROWS[key][1] for key in keys)]]
    cells += [[names[name], label(one), *(_cell(one, key) for key in keys)] for name, one in results.items()]
    notes = [f"[{number}] {note}" for note, number in marks.notes.items()]
    return "\n".join(
        [
            f"{results[first]['protocol']}: {results[first]['n']} images",
            "",
            *aligned(cells),
            *([""] if notes else []),
            *notes,
        ]
    )


@dataclasses.dataclass
class _Marks:
    """Notes under a table by their numbers, and the numbers that each row refers to."""

    notes: dict[str, int]
    rows: dict[str, list[int]]

    def add(self, row: str, note: str) -> None:
        self.rows[row].append(self.notes.setdefault(note, len(self.notes) + 1))


def _marks(results: Mapping[str, Mapping[str, Any]]) -> _Marks:
    """What makes rows doubtful beside others."""
    marks = _Marks({}, {name: [] for name in results})
    runs = {name: len(one["repetitions"]) for name, one in results.items()}
    known = {name: "prompts_sha256" in one["source"] for name, one in results.items()}
    first_with: dict[tuple[str | None, ...], str] = {}
    for name, one in results.items():
        if one["departures"]:
            marks.add(name, f"not {one['protocol']}: a number by that name is measured as the protocol says")
        if len(set(runs.values())) > 1:
            marks.add(
                name,
                f"{runs[name]} repetition{'s' * (runs[name] > 1)}: the least of several is below one of a single kind",
            )
        if any(known.values()) and not known[name]:
            marks.add(name, "its prompts are not known: others may be of easier ones")
        images = tuple(repetition.get("images_sha256") for repetition in one["repetitions"])
        if None not in images and first_with.setdefault(images, name) != name:
            marks.add(name, f"has the very images of {first_with[images]}")
        if one["source"].get("lossy"):
            marks.add(
                name,
                f"{one['source']['lossy']} of its images were saved with losses, which a distance counts",
            )
    return marks


def _refuse_repeated(name: str, one: Mapping[str, Any]) -> None:
    """Raises UserError where repetitions are of the same images."""
    seeds_of = one.get("first_seeds") or []
    if any(abs(a - b) < one["n"] for a, b in itertools.combinations(seeds_of, 2)):
        raise UserError(
            f"{name}: its repetitions share seeds ({seeds(seeds_of)}, {one['n']} images each); expected other seeds for each"
        )
    hashes = [
        repetition["images_sha256"] for repetition in one["repetitions"] if "images_sha256" in repetition
    ]
    if len(set(hashes)) < len(hashes):
        raise UserError(f"{name}: its repetitions are of the same images; expected other images for each")


def _identity(results: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a number comparable with others."""
    prompts = results["source"].get("prompts_sha256")
    return (
        {key: results[key] for key in SAME}
        | {"reference": results["reference"]["sha256"]}
        | ({"prompts": prompts} if prompts else {})
    )


def _spread(results: Mapping[str, Any]) -> list[str]:
    """A line that says what stands behind the sign ±, if there is any."""
    if len(results["repetitions"]) > 1:
        return [f"±: over {len(results['repetitions'])} repetitions"]
    known = [
        f"{ROWS[key][1]} {how}"
        for key, how in SPREADS.items()
        if f"{key}_deviation" in results["repetitions"][0]
    ]
    return [f"±: {', '.join(known)}"] if known else []


def _cell(results: Mapping[str, Any], key: str) -> str:
    found = results["summary"].get(key)
    if found is None:
        return ""
    form, scale = ROWS[key][2], SCALES.get(key, 1.0)
    if len(results["repetitions"]) > 1:
        return f"{form.format(found['mean'] * scale)} ± {form.format(found['std'] * scale)} (min {form.format(found['min'] * scale)})"
    deviation = results["repetitions"][0].get(f"{key}_deviation")
    return form.format(found["mean"] * scale) + (
        "" if deviation is None else f" ± {form.format(deviation * scale)}"
    )


def _seeds(results: Mapping[str, Any]) -> str:
    return "" if results["first_seeds"] is None else f", {seeds(results['first_seeds'])}"


def _named(skipped: str, results: Mapping[str, Any]) -> str:
    """What a statistic that is not there is called in the table."""
    return OTHERS.get(skipped) or ROWS[skipped][0].format(metric=results["metric"])
