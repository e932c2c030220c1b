"""`python -m eval compare`: several results of `fid` in one table, if their numbers may be compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

from distill.config.errors import UserError
from distill.eval.fid.results import FidResults
from distill.eval.fid.table import ROWS, cell, label
from distill.eval.protocols import seeds
from distill.eval.results.text_table import align


def compare_all(results: Mapping[str, Mapping[str, FidResults]]) -> str:
    """Write a table for each protocol that all files have results of."""
    first = next(iter(results.values()))
    common = [name for name in first if all(name in one for one in results.values())]
    if not common:  # the protocols differ, which is refused
        return compare({name: next(iter(one.values())) for name, one in results.items()})
    tables = [compare({name: one[protocol] for name, one in results.items()}) for protocol in common]
    others = {name: [protocol for protocol in one if protocol not in common] for name, one in results.items()}
    left_out = [f"{name}: {', '.join(rest)} is not in all files" for name, rest in others.items() if rest]
    return "\n\n".join([*tables, *(["\n".join(left_out)] if left_out else [])])


def compare(results: Mapping[str, FidResults]) -> str:
    """Write several results, by the names of their files, as a table with notes under it.

    The error for results that cannot be compared names the first difference.
    """
    check_comparable(results)
    first = next(iter(results))
    keys = [key for key in ROWS if all(key in one["summary"] for one in results.values())]
    if "fdr" in keys and has_several_units(results):
        keys.remove("fdr")
    marks = marks_of(results)
    cells = [["", "of", *(ROWS[key][1] for key in keys)]]
    for name, one in results.items():
        references = " ".join(f"[{number}]" for number in marks.rows[name])
        cells.append([f"{name} {references}".rstrip(), label(one), *(cell(one, key) for key in keys)])
    lines = [f"{results[first]['protocol']}: {results[first]['n']} images", "", *align(cells)]
    if marks.notes:
        lines += ["", *(f"[{number}] {note}" for note, number in marks.notes.items())]
    return "\n".join(lines)


def check_comparable(results: Mapping[str, FidResults]) -> None:
    """Refuse results that cannot be compared; the error names the first difference."""
    first, *others = results
    for name, one in results.items():
        _refuse_repeated(name, one)
    for other in others:
        _refuse_different(other, results[other], first, results[first])


def has_several_units(results: Mapping[str, FidResults]) -> bool:
    """Tell whether FDr has other held-out images as its unit in some results than in others."""
    return len({_unit(one) for one in results.values() if "fdr" in one["summary"]}) > 1


def _unit(one: FidResults) -> tuple[object, ...]:
    """Return what the unit of FDr depends on."""
    held_out = one.get("held_out")
    return () if held_out is None else (held_out["sha256"], one["repetitions"][0].get("fdr_count"))


@dataclasses.dataclass
class Marks:
    """Notes under a table by their numbers, and the numbers that each row refers to."""

    notes: dict[str, int]
    rows: dict[str, list[int]]

    def add(self, row: str, note: str) -> None:
        """Let a row refer to a note, which other rows may share."""
        self.rows[row].append(self.notes.setdefault(note, len(self.notes) + 1))


def marks_of(results: Mapping[str, FidResults]) -> Marks:
    """Note what makes rows doubtful beside others."""
    marks = Marks({}, {name: [] for name in results})
    counts = {name: len(one["repetitions"]) for name, one in results.items()}
    has_prompts = {name: "prompts_sha256" in one["source"] for name, one in results.items()}
    differ = has_several_units(results)
    first_with: dict[tuple[str | None, ...], str] = {}
    for name, one in results.items():
        if one["departures"]:
            marks.add(name, f"not {one['protocol']}: a number by that name is measured as the protocol says")
        if len(set(counts.values())) > 1:
            repetitions = f"{counts[name]} repetition{'s' * (counts[name] > 1)}"
            marks.add(name, f"{repetitions}: the least of several is below one of a single kind")
        if any(has_prompts.values()) and not has_prompts[name]:
            marks.add(name, "its prompts are not known: others may be of easier ones")
        images = tuple(repetition.get("images_sha256") for repetition in one["repetitions"])
        if None not in images and first_with.setdefault(images, name) != name:
            marks.add(name, f"has the very images of {first_with[images]}")
        if "trained" in one:
            marks.add(name, one["trained"])
        if differ and "fdr" in one["summary"]:
            marks.add(name, "FDr is left out: rows have other held-out images as its unit")
        lossy = one["source"].get("lossy")
        if lossy:
            marks.add(name, f"{lossy} of its images were saved with losses, which a distance counts")
    return marks


def _refuse_repeated(name: str, one: FidResults) -> None:
    """Refuse repetitions of the same images."""
    first_seeds = one.get("first_seeds") or []
    if any(abs(a - b) < one["n"] for a, b in itertools.combinations(first_seeds, 2)):
        shared = f"its repetitions share seeds ({seeds(first_seeds)}, {one['n']} images each)"
        raise UserError(f"{name}: {shared}; expected other seeds for each")
    hashes = [
        repetition["images_sha256"] for repetition in one["repetitions"] if "images_sha256" in repetition
    ]
    if len(set(hashes)) < len(hashes):
        raise UserError(f"{name}: its repetitions are of the same images; expected other images for each")


def _refuse_different(other: str, results: FidResults, first: str, first_results: FidResults) -> None:
    """Refuse results that do not have everything in common that a comparison needs."""
    found, expected = _identity(results), _identity(first_results)
    for key, value in expected.items():
        if key in found and found[key] != value:
            rest = "numbers of different ones are not to be compared"
            raise UserError(f"{other}: {key} is {found[key]}; expected {value} as in {first}, {rest}")


def _identity(results: FidResults) -> dict[str, object]:
    """Collect what makes a number comparable with others; prompts count only if they are known."""
    identity = {
        "protocol": results["protocol"],
        "preprocessing_sha256": results["preprocessing_sha256"],
        "weights_sha256": results["weights_sha256"],
        "n": results["n"],
        "reference": results["reference"]["sha256"],
    }
    prompts = results["source"].get("prompts_sha256")
    return {**identity, "prompts": prompts} if prompts else identity
