"""Two halves of one real set, which differ by chance alone: their Fréchet distance against the number of images, its limit and its interval.

`python benchmarks/two_halves.py` writes `benchmarks/results/two_halves.json` and `docs/two-halves.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.config.errors import UserError  # noqa: E402
from distill.data.images import to_bytes  # noqa: E402
from distill.data.sources.digits import Settings as Digits  # noqa: E402
from distill.storage.files import write_json  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402
from eval.features.pixels import pixels  # noqa: E402
from eval.frechet import Statistics, frechet_distance  # noqa: E402
from eval.metrics.frechet_limit import CONFIDENCE, bootstrap_deviation, frechet_limit  # noqa: E402
from eval.metrics.kernel_distance import kernel_distance  # noqa: E402
from eval.metrics.subsets import shuffled  # noqa: E402

COUNTS = (30, 60, 100, 150, 256, 400, 600, 898)
REPLICATES = 40


def main() -> None:
    digits = pixels(torch.cat([to_bytes(Digits().load(split).images) for split in ("train", "held_out")]))
    digits = digits[shuffled(len(digits))]
    reference, others = digits[: len(digits) // 2], digits[len(digits) // 2 :]
    points = [measure(others[:count], reference) for count in COUNTS]
    write_json(
        ROOT / "benchmarks" / "results" / "two_halves.json",
        {"points": points, "machine": machine(), "commit": commit()},
    )
    draw(points, ROOT / "docs" / "two-halves.png")
    for point in points:
        print(point)


def measure(features: torch.Tensor, reference: torch.Tensor) -> dict[str, Any]:
    real = Statistics.of(reference)
    point: dict[str, Any] = {"n": len(features), "warned": Statistics.of(features).warning is not None}
    point |= {
        "fd": frechet_distance(Statistics.of(features), real),
        "deviation": bootstrap_deviation(features, real, REPLICATES),
    }
    try:
        limit = frechet_limit(features, real)
        point |= {"limit": limit.value, "limit_deviation": limit.deviation}
    except UserError as error:
        point["no limit"] = str(error)
    return {**point, **kernel_distance(features, reference)}


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Both estimates with their 95 % intervals, and the numbers of images at which a warning is printed."""
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot(
            xscale="log", xlabel="images of one half", ylabel="distance to the other half (898 images)"
        )
        counts = [point["n"] for point in points]
        axes.errorbar(
            counts,
            [p["fd"] for p in points],
            [CONFIDENCE * p["deviation"] for p in points],
            marker="o",
            capsize=3,
            label="fd-pixel",
        )
        known = [point for point in points if "limit" in point]
        errors = [CONFIDENCE * point["limit_deviation"] for point in known]
        axes.errorbar(
            [p["n"] * 1.04 for p in known],
            [p["limit"] for p in known],
            errors,
            marker="s",
            capsize=3,
            label="its limit, FD∞",
        )
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.axvspan(
            min(counts) * 0.9, 64, color="orange", alpha=0.15, label="warned: n within the 64 dimensions"
        )
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
