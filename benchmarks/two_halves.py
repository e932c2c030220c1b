"""Measure the distance between two halves of one set of real images, which differ by chance alone.

`python benchmarks/two_halves.py` computes the Fréchet distance for growing numbers of images, its limit and
the intervals of both. It writes benchmarks/results/two_halves.json and docs/two-halves.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import RESULTS, ROOT, argument_parser
from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.data.sources.digits import Settings as Digits
from distill.eval.features.pixels import pixels
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.frechet_limit import CONFIDENCE, bootstrap_deviation, frechet_limit
from distill.eval.metrics.kernel_distance import kernel_distance
from distill.eval.metrics.subsets import shuffled
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine

COUNTS = (30, 60, 100, 150, 256, 400, 600, 898)
"""Numbers of images that are compared with the other half."""
REPLICATES = 40
"""Bootstrap replicates for the standard error of a distance."""
Point = dict[str, Any]
"""The distances of one number of images, by name."""


def main(arguments: list[str]) -> None:
    argument_parser(__doc__).parse_args(arguments)
    digits = pixels(torch.cat([to_bytes(Digits().load(split).images) for split in ("train", "held_out")]))
    digits = digits[shuffled(len(digits))]
    middle = len(digits) // 2
    reference, others = digits[:middle], digits[middle:]
    points = [measure(others[:count], reference) for count in COUNTS]
    results = {"points": points, "machine": machine(), "commit": commit()}
    write_json(RESULTS / "two_halves.json", results)
    draw(points, ROOT / "docs" / "two-halves.png")
    for point in points:
        print(point)


def measure(features: torch.Tensor, reference: torch.Tensor) -> Point:
    """Measure the distances of features, (n, d), to those of the other half."""
    real = Statistics.of(reference)
    made = Statistics.of(features)
    point: Point = {
        "n": len(features),
        "warned": made.warning is not None,
        "fd": frechet_distance(made, real),
        "deviation": bootstrap_deviation(features, real, REPLICATES),
    }
    try:
        limit = frechet_limit(features, real)
        point |= {"limit": limit.value, "limit_deviation": limit.deviation}
    except UserError as error:
        point["no limit"] = str(error)
    return {**point, **kernel_distance(features, reference)}


def draw(points: list[Point], path: Path) -> None:
    """Plot the distance and its limit with 95 % intervals, and the range of counts that gives a warning."""
    counts = [point["n"] for point in points]
    known = [point for point in points if "limit" in point]
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot(
            xscale="log", xlabel="images of one half", ylabel="distance to the other half (898 images)"
        )
        distances = [point["fd"] for point in points]
        errors = [CONFIDENCE * point["deviation"] for point in points]
        axes.errorbar(counts, distances, errors, marker="o", capsize=3, label="fd-pixel")
        shifted = [point["n"] * 1.04 for point in known]
        limits = [point["limit"] for point in known]
        limit_errors = [CONFIDENCE * point["limit_deviation"] for point in known]
        axes.errorbar(shifted, limits, limit_errors, marker="s", capsize=3, label="its limit, FD∞")
        axes.axhline(0, color="grey", linewidth=0.8)
        warned = "warned: n within the 64 dimensions"
        axes.axvspan(min(counts) * 0.9, 64, color="orange", alpha=0.15, label=warned)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main(sys.argv[1:])
