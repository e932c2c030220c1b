"""Results of `python -m eval preference` side by side: what must be equal, and what a reader must be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat, PositiveInt

from distill.config.errors import UserError
from eval.preference.results import FORMAT
from eval.results_file import Part, read_results_of, shortened

NOTHING = "nothing"


class _Prompts(Part):
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
    prompts: _Prompts
    subject: _Subject
    per_prompt: PositiveInt
    independent: PositiveInt
    seeds: list[int | None] = Field(min_length=1)
    scores: dict[str, _Score] = Field(min_length=1)


def read_results(path: Path) -> dict[str, Any]:
    """Read results that `preference` wrote.

    Raises UserError, naming the first part that does not fit, where the file holds something else.
    """
    results, checked = read_results_of("preference", path, FORMAT, _Results)
    for name, score in checked.scores.items():
        if len(score.values) != len(checked.seeds) or len(score.values) % checked.independent:
            found = f"{len(score.values)} values in scores.{name}, {len(checked.seeds)} seeds"
            draws = f"{checked.independent} independent draws"
            raise UserError(
                f"{path}: has {found} and {draws}; expected what python -m eval preference writes"
            )
    return results


def check_comparable(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the scores that all results have.

    Raises UserError, naming the first difference, where they are not of the same prompts, seeds and rewards.
    """
    first, *others = results
    own = results[first]["scores"]
    shared = [name for name in own if all(name in results[other]["scores"] for other in others)]
    if not shared:
        raise UserError(f"{others[0]}: has no score that {first} has; expected one of {', '.join(own)}")
    expected = _decisive(results[first], shared)
    for other in others:
        found = _decisive(results[other], shared)
        for key in [*expected, *(key for key in found if key not in expected)]:
            a, b = expected.get(key, NOTHING), found.get(key, NOTHING)
            if a != b and not _unknown(key, a, b, shared, results[first], results[other]):
                expected_text = (
                    f"expected {shortened(a)} as in {first}, scores of different ones are not to be compared"
                )
                raise UserError(f"{other}: {key} is {shortened(b)}; {expected_text}")
    return shared


def doubts(
    one: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]], shared: Sequence[str]
) -> list[str]:
    """Return notes on results beside others that agree with them in all that is known.

    `earlier` are those in the rows above.
    """
    found: list[str] = []
    subject, seeds, count = one["subject"], one["seeds"], one["prompts"]["count"]
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
    known = [(row % count, seed) for row, seed in enumerate(seeds) if seed is not None]
    if len(set(known)) < len(known):
        repeated = len(known) - len(set(known))
        found.append(
            f"{repeated} of its {len(seeds)} images repeat a seed of their prompt, and are no draws of their own"
        )
    unread = [name for name in shared if "reads" not in one["scores"][name]]
    if unread:
        found.append(
            f"preparation and tokenizer of {', '.join(unread)} are not known, it was written by an earlier version"
        )
    for file, other in earlier.items():
        if other["subject"]["images_sha256"] == subject["images_sha256"]:
            found.append(f"has the very images of {file}")
    return found


def _decisive(results: Mapping[str, Any], scores: Sequence[str]) -> dict[str, Any]:
    """Return the facts that a paired comparison depends on, by name."""
    facts = {key: results[key] for key in ("per_prompt", "seeds")} | {
        "prompts_sha256": results["prompts"]["sha256"]
    }
    for name in scores:
        score = results["scores"][name]
        facts |= {f"{key} of {name}": score[key] for key in ("weights_sha256", "settings")}
        facts |= {f"{key} of {name}": value for key, value in _flat(score.get("reads", {})).items()}
    return facts


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by their paths, `preparation.size`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _unknown(key: str, a: Any, b: Any, scores: Sequence[str], *results: Mapping[str, Any]) -> bool:
    """Return whether one of the two results says nothing of the key; `doubts` tells that then."""
    if key == "seeds":
        return None in a or None in b
    unread = [name for name in scores if any("reads" not in one["scores"][name] for one in results)]
    return NOTHING in (a, b) and any(key.endswith(f" of {name}") for name in unread)
