"""Tables of the results of benchmarks of composition, and one line for a paper."""

from __future__ import annotations

from collections.abc import Mapping

from distill.eval.composition.comparison import check_comparable
from distill.eval.composition.ratios import Estimate, difference, interval
from distill.eval.composition.result_types import CompositionResults, MeasureResult
from distill.eval.preference.comparison import doubts_about_images
from distill.eval.preference.table import label, number_notes
from distill.eval.results.text_table import align


def render(results: CompositionResults) -> str:
    """Return the results as text: every measure with its interval, conventions, notes, a line for a paper."""
    cells = [["", "value ± s.e.", "95 %", "prompts"]]
    for measure in results["measures"].values():
        cells.append([measure["title"], _value(measure), _interval(measure), str(measure["count"])])
    lines = [f"{results['title']}, {label(results)}: {results['subject']['of']}", "", *align(cells), ""]
    lines += results["conventions"]
    lines += [f"note: {note}" for note in results["notes"]]
    return "\n".join([*lines, "", _paper_line(results)])


def _value(measure: MeasureResult) -> str:
    return _with_error(measure["value"], measure["standard_error"], measure["scale"])


def _with_error(value: float, error: float | None, scale: float) -> str:
    """Write a value with its error on the scale of papers: four digits of a share, two of a percentage."""
    digits = 4 if scale == 1 else 2
    return f"{value * scale:.{digits}f}" + ("" if error is None else f" ± {error * scale:.{digits}f}")


def _interval(measure: MeasureResult) -> str:
    if measure["interval"] is None:
        return ""
    scale = measure["scale"]
    digits = 4 if scale == 1 else 2
    low, high = measure["interval"]
    return f"{low * scale:.{digits}f} to {high * scale:.{digits}f}"


def _paper_line(results: CompositionResults) -> str:
    """Return one line with the main measure, prompts, seeds, hashes and commit."""
    main = next(iter(results["measures"].values()))
    hashes = {"prompts": results["prompts"]["sha256"], "images": results["subject"]["images_sha256"]}
    shown = ", ".join(f"{name} {digest[:12]}" for name, digest in hashes.items())
    return f"{results['title']} {_value(main)}; {label(results)}; {shown}, commit {results['commit']}"


def compare(results: Mapping[str, CompositionResults]) -> str:
    """Return several results as a table, with the differences of the others from the first.

    `results` are by the names of their files. Refuses results of other benchmarks, prompts, seeds or
    examiners, naming the first difference. A result that may differ in something unknown is marked, and a
    note below the table says in what.
    """
    check_comparable(results)
    first, *others = results
    measures = results[first]["measures"]
    found: dict[str, list[str]] = {}
    for file, one in results.items():
        found[file] = doubts_about_images(one, {above: results[above] for above in found})
    names, notes = number_notes(found)
    cells = [["", *(measure["title"] for measure in measures.values())]]
    for file, one in results.items():
        cells.append([names[file], *(_value(one["measures"][name]) for name in measures)])
    for other in others:
        pairs = [(measures[name], results[other]["measures"][name]) for name in measures]
        cells.append([f"{names[other]} difference [95 %]", *(_difference(*pair) for pair in pairs)])
    rows = [f"{file}: {one['subject']['of']}; {label(one)}" for file, one in results.items()]
    title = results[first]["title"]
    return "\n".join([f"{title}, differences are from {first}", "", *align(cells), "", *rows, *notes])


def _difference(first: MeasureResult, other: MeasureResult) -> str:
    """Write the difference of two results on the same prompts, with its interval."""
    estimated = difference(other["numerators"], first["numerators"], first["denominators"], first["strata"])
    return _with_interval(estimated, first["scale"])


def _with_interval(estimated: Estimate, scale: float) -> str:
    digits = 4 if scale == 1 else 2
    ends = interval(estimated, is_rate=False)
    shown = "" if ends is None else f" [{ends[0] * scale:+.{digits}f}, {ends[1] * scale:+.{digits}f}]"
    return f"{estimated.value * scale:+.{digits}f}{shown}"
