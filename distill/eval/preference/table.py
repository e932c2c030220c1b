"""Tables of the results of `python -m eval preference`, and one line for a paper per score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from distill.eval.preference.comparison import check_comparable, doubts
from distill.eval.preference.result_types import (
    CategoryStatistics,
    PairStatistics,
    PromptedResults,
    Results,
    ScoreResult,
)
from distill.eval.preference.results import by_prompt, paired
from distill.eval.results.text_table import align


def render(results: Results) -> str:
    """Return the results as text: scores on every printed scale, categories, notes, and lines for a paper."""
    second = results.get("against")
    title = f"{label(results)}: {results['subject']['of']}"
    head = ["", "mean ± s.e."]
    if second:
        title += f" against {second['of']}"
        head += ["against", "wins [95 %]", "difference ± s.e."]
    lines = [title, ""]
    lines += align([head, *(row for score in results["scores"].values() for row in _rows(score))])
    lines += _categories(results["scores"], "mean by category", _category_mean)
    if second:
        lines += _categories(results["scores"], "wins by category", _category_wins)
    lines += ["", *(f"{name}: {_convention(score)}" for name, score in results["scores"].items())]
    lines += [f"note: {note}" for note in results["notes"]]
    return "\n".join([*lines, "", *paper_lines(results)])


def label(results: PromptedResults) -> str:
    """Say which prompts were measured and how many, the seeds, and which file formats are lossy."""
    prompts = results["prompts"]
    name = prompts["set"]
    if prompts["departures"]:
        name = f"not {name} ({'; '.join(prompts['departures'])})"
    per_prompt = results["per_prompt"]
    each = "an image each" if per_prompt == 1 else f"{per_prompt} images each"
    parts = [name, f"{prompts['count']} prompts", each, _seeds(results["seeds"])]
    kinds = dict.fromkeys(results["subject"].get("lossy") or ())
    if "against" in results:
        kinds |= dict.fromkeys(results["against"].get("lossy") or ())
    if kinds:
        parts.append(f"{' and '.join(kinds)} files")
    return ", ".join(parts)


def _seeds(seeds: Sequence[int | None]) -> str:
    first = seeds[0]
    if first is None or None in seeds:
        return "seeds not known"
    if list(seeds) == list(range(first, first + len(seeds))):
        return f"seeds {first} to {seeds[-1]}"
    return "seeds as listed"


def paper_lines(results: Results) -> list[str]:
    """Return one line for each score: means, prompts, seeds, hashes and commit."""
    lines = []
    for score in results["scores"].values():
        line = ", ".join(f"{name} {cell}" for name, cell, *_ in _rows(score))
        if "against" in score:
            line += f", wins {_wins(score['against'])} against {results['against']['of']}"
        hashes = {
            "weights": score["weights_sha256"],
            "prompts": results["prompts"]["sha256"],
            "images": results["subject"]["images_sha256"],
        }
        shown = ", ".join(f"{name} {digest[:12]}" for name, digest in hashes.items())
        lines.append(f"{line}; {label(results)}; {shown}, commit {results['commit']}")
    return lines


def compare(results: Mapping[str, Results]) -> str:
    """Return several results as a table, with the wins of the others against the first.

    `results` are by the names of their files. Refuses results of other prompts, seeds or rewards, naming the
    first difference. A result that may differ in something unknown is marked, and a note below the table says
    in what.
    """
    shared = check_comparable(results)
    first, *others = results
    names, notes = _marked(results, shared)
    cells = [["", *(results[first]["scores"][name]["title"] for name in shared)]]
    for file, one in results.items():
        scores = [one["scores"][name] for name in shared]
        cells.append(
            [names[file], *(_with_error(score["mean"], score["standard_error"]) for score in scores)]
        )
    for other in others:
        compared = [_paired_scores(results[other], results[first], name) for name in shared]
        differences = [_with_error(one["difference"], one["difference_error"]) for one in compared]
        cells.append([f"{names[other]} wins [95 %]", *(_wins(one) for one in compared)])
        cells.append([f"{names[other]} difference", *differences])
    rows = [f"{file}: {one['subject']['of']}; {label(one)}" for file, one in results.items()]
    return "\n".join([f"wins are against {first}", "", *align(cells), "", *rows, *notes])


def _paired_scores(one: Results, other: Results, name: str) -> PairStatistics:
    return paired(
        by_prompt(one["scores"][name]["values"], one["independent"]),
        by_prompt(other["scores"][name]["values"], other["independent"]),
    )


def _marked(results: Mapping[str, Results], shared: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the files' names, each with the numbers of its notes, and the notes."""
    found: dict[str, list[str]] = {}
    for file, one in results.items():
        found[file] = doubts(one, {above: results[above] for above in found}, shared)
    return number_notes(found)


def number_notes(found: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Number the notes on files; return the files' names, each with its numbers, and the notes."""
    names: dict[str, str] = {}
    notes: list[str] = []
    for file, doubted in found.items():
        numbers = range(len(notes) + 1, len(notes) + len(doubted) + 1)
        names[file] = " ".join([file, *(f"[{number}]" for number in numbers)])
        notes += [f"[{number}] {file}: {doubt}" for number, doubt in zip(numbers, doubted, strict=True)]
    return names, notes


def _convention(score: ScoreResult) -> str:
    """Say what a score is, and of which files and settings."""
    facts = {**score["files"], **score["settings"]}
    shown = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in ("", None))
    return f"{score['convention']} ({shown})" if shown else score["convention"]


def _rows(score: ScoreResult) -> list[list[str]]:
    """Return the row of a score, and one for each other scale on which papers print it."""
    rows = []
    for name, scale in ((score["title"], 1.0), *score["also"].items()):
        row = [name, _with_error(score["mean"], score["standard_error"], scale)]
        if "against" in score:
            second = score["against"]
            row.append(_with_error(second["mean"], second["standard_error"], scale))
            row.append(_wins(second) if scale == 1 else "")
            row.append(_with_error(second["difference"], second["difference_error"], scale))
        rows.append(row)
    return rows


def _categories(
    scores: Mapping[str, ScoreResult], title: str, cell: Callable[[CategoryStatistics], str]
) -> list[str]:
    """Return a row for each category and a column for each score, unless there is only one category."""
    first, *_ = scores.values()
    if len(first["by_category"]) < 2:
        return []
    cells = [[title, "n", *(score["title"] for score in scores.values())]]
    for name, category in first["by_category"].items():
        row = [cell(score["by_category"][name]) for score in scores.values()]
        cells.append([name, str(category["count"]), *row])
    return ["", *align(cells)]


def _category_mean(category: CategoryStatistics) -> str:
    return _with_error(category["mean"], category["standard_error"])


def _category_wins(category: CategoryStatistics) -> str:
    return _wins(category["against"])


def _with_error(mean: float, error: float | None, scale: float = 1.0) -> str:
    return f"{mean * scale:.4f}" + ("" if error is None else f" ± {error * scale:.4f}")


def _wins(compared: PairStatistics) -> str:
    low, high = compared["win_interval"]
    return f"{compared['win_rate']:.1%} [{low:.1%}, {high:.1%}]"
