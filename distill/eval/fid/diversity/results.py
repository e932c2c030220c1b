"""The results of `python -m eval diversity`: the content of its JSON file, and a table of them."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from distill.eval.metrics.diversity.within import ByCondition

FORMAT = "distill-diversity/1"
ROWS = {
    "cosine_distance": "cosine distance of pairs",
    "vendi": "Vendi score",
    "recall": "recall within a label",
}


class Statistic(TypedDict):
    """Mean over conditions, its standard error (None for one condition), and each condition's value."""

    mean: float
    standard_error: float | None
    conditions: list[int]
    values: list[float]


class DiversityResults(TypedDict):
    """The content of the JSON file.

    `kind` is "prompt" or "label", `images` the least and the greatest number of images of one. `perceptual`
    are the hashes of the networks of the perceptual distances, by their names.
    """

    format: str
    protocol: str
    source: dict[str, Any]
    n: int
    first_seed: int | None
    kind: str
    conditions: int
    images: list[int]
    statistics: dict[str, Statistic]
    perceptual: dict[str, str]
    reference_sha256: str | None
    preprocessing_sha256: str
    weights_sha256: str
    images_sha256: str
    skipped: dict[str, str]
    commit: str | None
    machine: str


def describe(found: ByCondition) -> Statistic:
    """Return a statistic as plain data."""
    return {
        "mean": found.mean,
        "standard_error": found.standard_error,
        "conditions": found.conditions.tolist(),
        "values": found.values.tolist(),
    }


def render(results: DiversityResults) -> str:
    """Write a row for each statistic, and notes."""
    least, most = results["images"]
    each = str(least) if least == most else f"{least} to {most}"
    kind, count = results["kind"], results["conditions"]
    origin = results["source"]["of"]
    title = f"{results['protocol']}: {origin}, {each} images of each of {count} {kind}s"
    lines = [title, ""]
    for name, statistic in results["statistics"].items():
        error = statistic["standard_error"]
        spread = "" if error is None else f" ± {error:.4f}"
        lines.append(f"{ROWS.get(name, name):<42}{statistic['mean']:.4f}{spread}")
    lines += ["", f"±: the standard error over {kind}s; a Vendi score is at most the number of images of one"]
    lines += [f"skipped: {ROWS.get(name, name)}: {reason}" for name, reason in results["skipped"].items()]
    return "\n".join(lines)
