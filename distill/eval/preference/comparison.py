"""Comparison of results of `python -m eval preference`: what must be equal, and what deserves a note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field, FiniteFloat, PositiveInt

from distill.config.errors import UserError
from distill.eval.preference.result_types import FORMAT, PromptedResults, Results
from distill.eval.results.file import Part, read_results_of, shortened

NOTHING = "nothing"
"""Stands in messages for a fact that a result does not hold."""


class PromptsPart(Part):
    """What results say of their prompts."""

    set: str
    sha256: str
    count: PositiveInt
    departures: list[str]


class _Subject(Part):
    of: str
    images_sha256: str
    paired_by: str = ""
    lossy: dict[str, int] = Field(default_factory=dict)


class _Score(Part):
    title: str
    weights_sha256: str
    settings: dict[str, Any]
    reads: dict[str, Any] = Field(default_factory=dict)
    mean: FiniteFloat
    standard_error: FiniteFloat | None
    values: list[FiniteFloat]


class _Results(Part):
    prompts: PromptsPart
    subject: _Subject
    per_prompt: PositiveInt
    independent: PositiveInt
    seeds: list[int | None] = Field(min_length=1)
    scores: dict[str, _Score] = Field(min_length=1)


def read_results(path: Path, command: str = "preference", format: str = FORMAT) -> Results:
    """Read results that `preference` wrote; earlier versions wrote no `reads`, `lossy` and `paired_by`.

    Another command whose results have the same shape is given with the format that it writes.

    Raises UserError, naming the first part that does not fit, if the file holds something else.
    """
    results, parts = read_results_of(command, path, format, _Results)
    for name, score in parts.scores.items():
        count = len(score.values)
        if count != len(parts.seeds) or count % parts.independent:
            raise UserError(
                f"{path}: has {count} values in scores.{name}, {len(parts.seeds)} seeds and "
                f"{parts.independent} independent draws; expected what python -m eval {command} writes"
            )
    return cast(Results, results)


def check_comparable(results: Mapping[str, Results]) -> list[str]:
    """Return the scores that all results have; refuse results of other prompts, seeds or rewards.

    The error names the first difference.
    """
    first, *others = results
    own = results[first]["scores"]
    shared = [name for name in own if all(name in results[other]["scores"] for other in others)]
    if not shared:
        raise UserError(f"{others[0]}: has no score that {first} has; expected one of {', '.join(own)}")
    for other in others:
        refuse_different(other, results[other], first, results[first], shared)
    return shared


def refuse_different(
    other: str, results: Results, first: str, first_results: Results, scores: Sequence[str]
) -> None:
    """Refuse results of other prompts, seeds or rewards than the first ones; name the first difference."""
    for key, expected, found in _differences(first_results, results, scores):
        raise UserError(
            f"{other}: {key} is {shortened(found)}; expected {shortened(expected)} as in {first}, "
            "scores of different ones are not to be compared"
        )


def _differences(first: Results, other: Results, scores: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and the two values of each fact that differs, unless one result does not know it."""
    expected = _decisive(first, scores)
    found = _decisive(other, scores)
    for key in expected | found:
        a = expected.get(key, NOTHING)
        b = found.get(key, NOTHING)
        if a != b and not _is_unknown(key, a, b, scores, first, other):
            yield key, a, b


def doubts(one: Results, earlier: Mapping[str, Results], shared: Sequence[str]) -> list[str]:
    """Return notes on a result that agrees with the others in all that is known.

    `earlier` are the results in the rows above.
    """
    found = doubts_about_images(one, earlier)
    unread = [name for name in shared if "reads" not in one["scores"][name]]
    if unread:
        found.append(
            f"preparation and tokenizer of {', '.join(unread)} are not known, "
            "it was written by an earlier version"
        )
    return found


def doubts_about_images(one: PromptedResults, earlier: Mapping[str, PromptedResults]) -> list[str]:
    """Return notes on the images of a result: compression, seeds, pairing, and a row that has the same."""
    found: list[str] = []
    subject = one["subject"]
    seeds = one["seeds"]
    lossy = subject.get("lossy")
    if lossy:
        kinds = ", ".join(f"{number} {kind}" for kind, number in lossy.items())
        found.append(f"{kinds} of {len(seeds)} images: what compression left of them was scored")
    if lossy is None:
        found.append(
            "whether its images were compressed with loss is not known, it was written by an earlier version"
        )
    if None in seeds:
        found.append("its seeds are not known, the pairs are of the same prompts, whatever their noise")
    if subject.get("paired_by") == "order":
        found.append("its images are paired with prompts by their order, no index names these")
    count = one["prompts"]["count"]
    known = [(row % count, seed) for row, seed in enumerate(seeds) if seed is not None]
    repeated = len(known) - len(set(known))
    if repeated:
        found.append(
            f"{repeated} of its {len(seeds)} images repeat a seed of their prompt, "
            "and are no draws of their own"
        )
    for file, other in earlier.items():
        if other["subject"]["images_sha256"] == subject["images_sha256"]:
            found.append(f"has the very images of {file}")
    return found


def _decisive(results: Results, scores: Sequence[str]) -> dict[str, Any]:
    """Return the facts that a paired comparison depends on, by name."""
    facts: dict[str, Any] = {
        "per_prompt": results["per_prompt"],
        "seeds": results["seeds"],
        "prompts_sha256": results["prompts"]["sha256"],
    }
    for name in scores:
        score = results["scores"][name]
        facts[f"weights_sha256 of {name}"] = score["weights_sha256"]
        facts[f"settings of {name}"] = score["settings"]
        for key, value in flat_facts(score.get("reads", {})).items():
            facts[f"{key} of {name}"] = value
    return facts


def flat_facts(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by their paths, such as `preparation.size`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flat_facts(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _is_unknown(key: str, a: Any, b: Any, scores: Sequence[str], *results: Results) -> bool:
    """Return whether one of two results does not know this fact; `doubts` then says so."""
    if key == "seeds":
        return None in a or None in b
    unread = [name for name in scores if any("reads" not in one["scores"][name] for one in results)]
    return NOTHING in (a, b) and any(key.endswith(f" of {name}") for name in unread)
