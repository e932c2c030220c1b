"""The results of `python -m eval fid` as a table for the terminal, and as a line for a paper."""

from __future__ import annotations

from distill.eval.fid.results import FidResults, Numbers
from distill.eval.protocols import seeds

ROWS = {
    "fd": ("{metric}", "distance", "{:.4f}"),
    "fdr": ("FDr, relative to real images", "FDr", "{:.3f}"),
    "fd_limit": ("{metric}, infinitely many images", "limit", "{:.4f}"),
    "cmmd": ("CMMD", "CMMD", "{:.4f}"),
    "kid": ("KID x 1000", "KID x 1000", "{:.4f}"),
    "is": ("Inception score", "IS", "{:.3f}"),
    "precision": ("precision", "precision", "{:.3f}"),
    "recall": ("recall", "recall", "{:.3f}"),
    "density": ("density", "density", "{:.3f}"),
    "coverage": ("coverage", "coverage", "{:.3f}"),
}
"""For each number its long name, its short name and its format."""
OTHERS = {"neighbours": "precision, recall, density, coverage", "per_label": "by label"}
"""Names of statistics that come together, or in a line of their own."""
SCALES = {"kid": 1000.0}
SPREADS = {
    "fd": "by the bootstrap",
    "fd_limit": "by the fit of its line",
    "kid": "over its blocks",
    "is": "over ten parts",
}
"""The source of each deviation of a single repetition."""


def render(results: FidResults) -> str:
    """Write a row for each number, notes that the numbers must be read with, and the line for a paper."""
    origin = results["source"]["of"]
    title = f"{label(results)}: {origin}, {results['n']} images{cost(results)}{_seeds(results)}"
    lines = [title, ""]
    for key, (name, _, _) in ROWS.items():
        number = cell(results, key)
        if number:
            lines.append(f"{name.format(metric=results['metric']):<42}{number}")
    lines += _spread(results)
    lines += ["", *describe_real(results), *notes(results), *_interval(results)]
    return "\n".join([*lines, "", paper_line(results)])


def describe_real(results: FidResults) -> list[str]:
    """Describe the reference, and the real images whose distance is the unit of FDr."""
    reference = results["reference"]
    lines = [f"reference: {reference['of']}, {reference['kind']}, sha256 {reference['sha256'][:16]}"]
    held_out, first = results.get("held_out"), results["repetitions"][0]
    if held_out is not None and "fdr" in first:
        count, seed = first["fdr_count"], f"drawn with seed {held_out['subset_seed']}"
        part = (
            f"{count} of {held_out['count']} images, {seed}"
            if count < held_out["count"]
            else f"{count} images"
        )
        lines.append(f"held-out: {held_out['of']}, {part}, sha256 {held_out['sha256'][:16]}")
        if count < results["n"]:
            lines.append(
                f"FDr: of {count} of {results['n']} generated images, {seed}, as many as held-out ones"
            )
        lines.append(f"FDr: in units of {first['fdr_real']:.4g}, the distance of the held-out images")
    return lines


def notes(results: FidResults) -> list[str]:
    """Write the distances by label, the reasons for missing numbers, and what makes numbers doubtful."""
    first = results["repetitions"][0]
    lines = []
    by_label = first.get("per_label")
    if by_label:
        lines.append("by label: " + ", ".join(f"{name} {value:.4g}" for name, value in by_label.items()))
    lines += [f"skipped: {_name(key, results)}: {reason}" for key, reason in results["skipped"].items()]
    trained = results.get("trained")
    lines += [] if trained is None else [trained]
    return lines + [f"warning: {warning}" for warning in results["warnings"]]


def _interval(results: FidResults) -> list[str]:
    interval = results["repetitions"][0].get("kid_interval")
    if not interval:
        return []
    low, high = (1000 * bound for bound in interval)
    confidence = "with a confidence of 95 % (Student's t over its blocks)"
    return [f"KID x 1000: {low:.4f} to {high:.4f} {confidence}"]


def label(results: FidResults) -> str:
    """Name the protocol, or say that the number departs from it, and in what."""
    if not results["departures"]:
        return results["protocol"]
    return f"not {results['protocol']} ({'; '.join(results['departures'])})"


def cost(results: FidResults) -> str:
    """Write the network evaluations of an image, if the images were made here."""
    evaluations = results["source"].get("evaluations")
    return "" if evaluations is None else f", {evaluations} evaluation{'s' * (evaluations > 1)} an image"


def paper_line(results: FidResults) -> str:
    """Write metric, number, protocol, count, seeds, hashes and commit in one line."""
    fd = results["summary"]["fd"]
    spread = f" ± {fd['std']:.4f} (min {fd['min']:.4f})" if len(results["repetitions"]) > 1 else ""
    number = f"{results['metric']} {fd['mean']:.4f}{spread}"
    if "cmmd" in results["summary"]:
        number = f"CMMD {cell(results, 'cmmd')}, {number}"
    made = f"n = {results['n']}{cost(results)}{_seeds(results)}"
    hashes = f"reference {results['reference']['sha256'][:12]}, weights {results['weights_sha256'][:12]}"
    return f"{number}; {label(results)}, {made}; {hashes}, commit {results['commit']}"


def cell(results: FidResults, key: str) -> str:
    """Write a number with its deviation; empty if it is not there."""
    found = results["summary"].get(key)
    if found is None:
        return ""
    form, scale = ROWS[key][2], SCALES.get(key, 1.0)
    mean = form.format(found["mean"] * scale)
    if len(results["repetitions"]) > 1:
        std, least = form.format(found["std"] * scale), form.format(found["min"] * scale)
        return f"{mean} ± {std} (min {least})"
    deviation = deviation_of(results["repetitions"][0], key)
    return mean if deviation is None else f"{mean} ± {form.format(deviation * scale)}"


def deviation_of(numbers: Numbers, key: str) -> float | None:
    """Return the deviation of a number within one repetition, None if it has none."""
    deviation = dict(numbers).get(f"{key}_deviation")
    return deviation if isinstance(deviation, int | float) else None


def _spread(results: FidResults) -> list[str]:
    """Write a line that says what the sign ± stands for, if there is any."""
    if len(results["repetitions"]) > 1:
        return [f"±: over {len(results['repetitions'])} repetitions"]
    first = results["repetitions"][0]
    known = [f"{ROWS[key][1]} {how}" for key, how in SPREADS.items() if f"{key}_deviation" in first]
    return [f"±: {', '.join(known)}"] if known else []


def _seeds(results: FidResults) -> str:
    return "" if results["first_seeds"] is None else f", {seeds(results['first_seeds'])}"


def _name(key: str, results: FidResults) -> str:
    """Name a missing statistic as the table does."""
    return OTHERS.get(key) or ROWS[key][0].format(metric=results["metric"])
