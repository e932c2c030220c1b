"""The results of `python -m eval preference` as tables, and as lines for a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.preference.comparison import check_comparable, doubts
from eval.preference.results import by_prompt, paired
from eval.text_table import align


def render(results: Mapping[str, Any]) -> str:
    """A row for each score and for each scale that papers print it in, the categories, what the numbers must be read with, and the lines."""
    second = results.get("against")
    lines = [
        f"{label(results)}: {results['subject']['of']}" + (f" against {second['of']}" if second else ""),
        "",
    ]
    head = ["", "mean ± s.e.", *(["against", "wins [95 %]", "difference ± s.e."] if second else [])]
    lines += align([head, *(row for score in results["scores"].values() for row in _rows(score))])
    lines += _categories(
        results["scores"], "mean by category", lambda one: _with_error(one["mean"], one["standard_error"])
    )
    lines += (
        _categories(results["scores"], "wins by category", lambda one: _wins(one["against"]))
        if second
        else []
    )
    lines += ["", *(f"{name}: {_convention(score)}" for name, score in results["scores"].items())]
    lines += [f"note: {note}" for note in results["notes"]]
    return "\n".join([*lines, "", *paper_lines(results)])


def label(results: Mapping[str, Any]) -> str:
    """The name of the prompts, or that they are not all of it; how many there are; the seeds; and what lossy files were measured."""
    prompts, per_prompt, seeds = results["prompts"], results["per_prompt"], results["seeds"]
    name = (
        f"not {prompts['set']} ({'; '.join(prompts['departures'])})"
        if prompts["departures"]
        else prompts["set"]
    )
    each = "an image each" if per_prompt == 1 else f"{per_prompt} images each"
    known = None not in seeds and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    stated = (
        f"seeds {seeds[0]} to {seeds[-1]}"
        if known
        else "seeds not known"
        if None in seeds
        else "seeds as listed"
    )
    kinds = dict.fromkeys(
        kind for side in ("subject", "against") for kind in results.get(side, {}).get("lossy") or ()
    )
    return ", ".join(
        [
            name,
            f"{prompts['count']} prompts",
            each,
            stated,
            *([f"{' and '.join(kinds)} files"] if kinds else []),
        ]
    )


def paper_lines(results: Mapping[str, Any]) -> list[str]:
    """Score, mean, prompts, seeds, hashes and commit, a line for each score."""
    lines = []
    for score in results["scores"].values():
        scales = ", ".join(f"{name} {cell}" for name, cell, *_ in _rows(score))
        second = score.get("against")
        wins = f", wins {_wins(second)} against {results['against']['of']}" if second else ""
        hashes = f"weights {score['weights_sha256'][:12]}, prompts {results['prompts']['sha256'][:12]}, images {results['subject']['images_sha256'][:12]}"
        lines.append(f"{scales}{wins}; {label(results)}; {hashes}, commit {results['commit']}")
    return lines


def compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Several results, by the names of their files, in a table, and how often the others win against the first; below it what each is.

    Raises UserError, naming the first difference, where they are not of the same prompts, seeds and rewards. What may be another without anyone's
    knowing is marked and said.
    """
    shared = check_comparable(results)
    first, *others = results
    names, notes = _marked(results, shared)
    cells = [["", *(results[first]["scores"][name]["title"] for name in shared)]]
    for file, one in results.items():
        cells.append(
            [
                names[file],
                *(
                    _with_error(score["mean"], score["standard_error"])
                    for score in (one["scores"][name] for name in shared)
                ),
            ]
        )
    for other in others:
        pairs = [
            [
                by_prompt(results[file]["scores"][name]["values"], results[file]["independent"])
                for file in (other, first)
            ]
            for name in shared
        ]
        compared = [paired(*pair) for pair in pairs]
        cells.append([f"{names[other]} wins [95 %]", *(_wins(one) for one in compared)])
        cells.append(
            [
                f"{names[other]} difference",
                *(_with_error(one["difference"], one["difference_error"]) for one in compared),
            ]
        )
    rows = [f"{file}: {one['subject']['of']}; {label(one)}" for file, one in results.items()]
    return "\n".join([f"wins are against {first}", "", *align(cells), "", *rows, *notes])


def _marked(
    results: Mapping[str, Mapping[str, Any]], shared: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The files' names, each with the numbers of the notes that it needs, and the notes."""
    names: dict[str, str] = {}
    notes: list[str] = []
    for file, one in results.items():
        found = doubts(one, {above: results[above] for above in names}, shared)
        numbers = range(len(notes) + 1, len(notes) + len(found) + 1)
        names[file] = " ".join([file, *(f"[{number}]" for number in numbers)])
        notes += [f"[{number}] {file}: {doubt}" for number, doubt in zip(numbers, found, strict=True)]
    return names, notes


def _convention(score: Mapping[str, Any]) -> str:
    """What a score is, and of which files and settings."""
    facts = ", ".join(
        f"{name} {value}"
        for name, value in {**score["files"], **score["settings"]}.items()
        if value not in ("", None)
    )
    return f"{score['convention']} ({facts})" if facts else score["convention"]


def _rows(score: Mapping[str, Any]) -> list[list[str]]:
    """The score as it is, and as others print it."""
    rows = []
    for name, scale in ((score["title"], 1.0), *score["also"].items()):
        row = [name, _with_error(score["mean"], score["standard_error"], scale)]
        second = score.get("against")
        if second:
            row += [
                _with_error(second["mean"], second["standard_error"], scale),
                _wins(second) if scale == 1 else "",
            ]
            row.append(_with_error(second["difference"], second["difference_error"], scale))
        rows.append(row)
    return rows


def _categories(scores: Mapping[str, Any], title: str, cell: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """A row for each category and a column for each score, after a blank line; nothing of fewer than two categories."""
    categories = next(iter(scores.values()))["by_category"]
    rows = [
        [name, str(one["count"]), *(cell(score["by_category"][name]) for score in scores.values())]
        for name, one in categories.items()
    ]
    return (
        ["", *align([[title, "n", *(score["title"] for score in scores.values())], *rows])]
        if len(rows) > 1
        else []
    )


def _with_error(mean: float, error: float | None, scale: float = 1.0) -> str:
    return f"{mean * scale:.4f}" + ("" if error is None else f" ± {error * scale:.4f}")


def _wins(compared: Mapping[str, Any]) -> str:
    low, high = compared["win_interval"]
    return f"{compared['win_rate']:.1%} [{low:.1%}, {high:.1%}]"
