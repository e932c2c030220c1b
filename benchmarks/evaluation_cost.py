"""Compare the time of neighbours and of the limit of a Fréchet distance with the algorithms they replaced.

`OMP_NUM_THREADS=1 python benchmarks/evaluation_cost.py` writes benchmarks/results/evaluation_cost.json and
the tables in docs/evaluation.md; `--render` writes the tables alone. The features are random, 2048-d, float32
as the store holds them. The earlier algorithms are in this file. Both are run in full on the smaller number
of images, where the results are compared too. On the larger one, the earlier ones and the present search of
neighbours are run on a part of their work, from which their time is extrapolated. Seconds are the
processor's, on one thread.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.document import Block, markdown_table
from benchmarks.project import RESULTS as FOLDER
from benchmarks.project import ROOT, argument_parser
from benchmarks.rotation import kernels, measure_time, run_without_overrides
from distill.eval.features import checked
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.distance_bounds import TILE, Balls, membership, tiles
from distill.eval.metrics.frechet_limit import bootstrap_deviation, frechet_limit
from distill.eval.metrics.inception_score import inception_score
from distill.eval.metrics.kernel_distance import kernel_distance
from distill.eval.metrics.neighbours import nearest_others, squared_distances
from distill.eval.metrics.precision_recall import COVERAGE_NEIGHBOURS, NEIGHBOURS, neighbourhoods
from distill.eval.metrics.subsets import resampled, shuffled
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine

RESULTS = FOLDER / "evaluation_cost.json"
BLOCK = Block(ROOT / "docs" / "evaluation.md", "evaluation cost")
DIMENSION, CLASSES = 2048, 1008
SMALL, LARGE = 10_000, 50_000
POINTS = 256
"""Points of each pass over neighbours that the earlier algorithm is timed on, and twice as many."""
SHARE_OF_COUNTS = 7
"""One of so many numbers of images is timed for the earlier limit: the first, the middle and the last."""
REPLICATES = 4
"""Replicates of the bootstrap that are timed; the default of `fid` is 20."""
REPLICATES_BEFORE = 1
"""Replicates that the earlier bootstrap is timed on."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--render", action="store_true", help="write the tables of earlier results")
    if not parser.parse_args(arguments).render:
        run_without_overrides()
        torch.set_num_threads(1)
        measure()
    for block, text in render(read_json(RESULTS)).items():
        block.write(text)
        print(text)


def measure() -> None:
    """Time everything; the results are written when the large case, the last, is done."""
    results = {
        "dimension": DIMENSION,
        "torch": torch.__version__,
        "machine": machine(),
        "commit": commit(),
        "small": compare_in_full(SMALL),
    }
    print(results["small"], flush=True)
    write_json(RESULTS, {**results, "large": compare_by_parts(LARGE), "kernels": kernels()})


def draw_sides(count: int) -> tuple[Tensor, Tensor]:
    """Draw real and generated features, whose variances fall over three decades."""
    random = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1.5, DIMENSION)
    real = torch.randn(count, DIMENSION, generator=random) * scales
    generated = (torch.randn(count, DIMENSION, generator=random) + 0.1) * scales
    return real, generated


def processor_seconds(do: Callable[[], object]) -> float:
    """Return the processor's time of one call, which is printed."""
    seconds = measure_time(do)["processor"]
    print(f"{seconds:.1f} s", flush=True)
    return seconds


def compare_in_full(count: int) -> dict[str, Any]:
    """Run both algorithms; the present one again as a control."""
    real, generated = draw_sides(count)
    statistics = Statistics.of(real)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "neighbours": (
            lambda: neighbourhoods(real, generated),
            lambda: earlier_neighbourhoods(real, generated),
        ),
        "limit": (
            lambda: frechet_limit(generated, statistics).distances,
            lambda: earlier_limit(generated, statistics),
        ),
    }
    return {"images": count} | {name: _compare(*pair) for name, pair in pairs.items()}


def _compare(present: Callable[[], Any], earlier: Callable[[], Any]) -> dict[str, Any]:
    found: list[Any] = []
    times = [
        processor_seconds(lambda: found.append(one()))  # noqa: B023, called at once
        for one in (present, earlier, present)
    ]
    result = {
        "seconds": times[0],
        "earlier": times[1],
        "ratio": times[1] / times[0],
        "control": times[2] / times[0],
    }
    if isinstance(found[0], dict):
        return {**result, "equal": found[0] == found[1], "values": found[0]}
    difference = max(abs(a / b - 1) for a, b in zip(found[0], found[1], strict=True))
    return {**result, "relative difference": difference}


def compare_by_parts(count: int) -> dict[str, Any]:
    """Time every metric in full, and the earlier algorithms on a part of the work."""
    real, generated = draw_sides(count)
    statistics = Statistics.of(real)
    logits = torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(1))
    seconds = {
        "distance, wide": processor_seconds(wide_distance(generated[:SMALL], real[:SMALL])),
        "distance": processor_seconds(lambda: frechet_distance(Statistics.of(generated), statistics)),
        "limit": processor_seconds(lambda: frechet_limit(generated, statistics)),
        "bootstrap": processor_seconds(lambda: bootstrap_deviation(generated, statistics, REPLICATES)),
        "kid": processor_seconds(lambda: kernel_distance(generated, real)),
        "is": processor_seconds(lambda: inception_score(logits)),
        "neighbours": extrapolate_neighbours(real, generated),
    }
    earlier_points = [
        processor_seconds(partial(earlier_neighbourhoods, real, generated, points))
        for points in (POINTS, 2 * POINTS)
    ]
    counts = frechet_limit_counts(count)[::SHARE_OF_COUNTS]
    limit = processor_seconds(lambda: earlier_limit(generated, statistics, counts))
    drawn = processor_seconds(lambda: earlier_bootstrap(generated, statistics, REPLICATES_BEFORE))
    earlier = {
        "neighbours": extrapolate(earlier_points, count / POINTS),
        "limit": limit * len(frechet_limit_counts(count)) / len(counts),
        "bootstrap": drawn * REPLICATES / REPLICATES_BEFORE,
    }
    ratios = {name: value / seconds[name] for name, value in earlier.items()}
    return {"images": count, "seconds": seconds, "earlier, extrapolated": earlier, "ratio": ratios}


def wide_distance(generated: Tensor, real: Tensor) -> Callable[[], float]:
    """Return a distance of features whose variances fall over six decades, which takes singular values."""
    scales = torch.logspace(0, -1.5, DIMENSION)
    sides = Statistics.of(generated * scales), Statistics.of(real * scales)
    return partial(frechet_distance, *sides)


def extrapolate(seconds: list[float], parts: float) -> float:
    """Return the time of many parts of the work from those of one and of two, which share a beginning."""
    one, two = seconds
    return one + (two - one) * (parts - 1)


def extrapolate_neighbours(real: Tensor, generated: Tensor) -> float:
    """Time the present search among the smaller number of images, and membership of some points.

    The search takes as long as its tiles, of which there are about n^2/2.
    """
    real, generated = checked(real), checked(generated)
    count = len(real)
    found: list[Tensor] = []
    search = processor_seconds(lambda: found.append(nearest_others(real[:SMALL], COVERAGE_NEIGHBOURS)))
    radii = found[0][:, NEIGHBOURS - 1].median().expand(count)
    questions = [Balls(radii), Balls(radii, around_points=True), Balls(radii, is_open=True)]
    points = [
        processor_seconds(lambda: deque(membership(generated[:some], real, questions), maxlen=0))  # noqa: B023
        for some in (TILE, 2 * TILE)
    ]
    ratio = len(tiles(count)) * (len(tiles(count)) + 1) / len(tiles(SMALL)) / (len(tiles(SMALL)) + 1)
    return 2 * search * ratio + extrapolate(points, count / TILE)


def earlier_neighbourhoods(real: Tensor, generated: Tensor, points: int | None = None) -> dict[str, float]:
    """Compute the four shares by six passes of float64 products, each over all points or the first ones."""
    real, generated = checked(real), checked(generated)
    near, slack = _earlier_radii(real, NEIGHBOURS, points)
    made, made_slack = _earlier_radii(generated, NEIGHBOURS, points)
    wide, _ = _earlier_radii(real, COVERAGE_NEIGHBOURS, points)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for block in squared_distances(generated[:points], real):
        within = block < wide - slack
        inside += int(within.sum())
        covered |= within.any(0)
    return {
        "precision": _earlier_share(generated[:points], real, near + slack),
        "recall": _earlier_share(real[:points], generated, made + made_slack),
        "density": inside / (COVERAGE_NEIGHBOURS * len(generated)),
        "coverage": float(covered.double().mean()),
    }


def _earlier_radii(features: Tensor, k: int, points: int | None) -> tuple[Tensor, Tensor]:
    """Return squared radii, 0 for points left out, and their rounding."""
    blocks = squared_distances(features[:points], features)
    radii = torch.cat([block.topk(k + 1, largest=False).values[:, k] for block in blocks])
    rounding = 2 * features.shape[1] * torch.finfo(torch.float64).eps * features.square().sum(1).max()
    return torch.cat([radii, radii.new_zeros(len(features) - len(radii))]), rounding


def _earlier_share(points: Tensor, centres: Tensor, squared_radii: Tensor) -> float:
    blocks = squared_distances(points, centres)
    return float(torch.cat([(block <= squared_radii).any(1) for block in blocks]).double().mean())


def frechet_limit_counts(total: int) -> list[int]:
    """Return the numbers of images of the limit; these features have at least 20 images a dimension."""
    least = max(round(0.1 * total), 2 * DIMENSION)
    return np.unique(np.linspace(least, total, 15).astype(int)).tolist()


def earlier_limit(features: Tensor, real: Statistics, counts: list[int] | None = None) -> list[float]:
    """Compute the distance at each number of images from its own pass over them."""
    features, total = checked(features), len(features)
    return [
        _earlier_distance(features[shuffled(total, seed=count)[:count]], real)
        for count in counts or frechet_limit_counts(total)
    ]


def earlier_bootstrap(features: Tensor, real: Statistics, replicates: int) -> list[float]:
    """Compute the distance of each replicate from its own pass over its images."""
    features = checked(features)
    return [_earlier_distance(features[resampled(len(features), seed)], real) for seed in range(replicates)]


def _earlier_distance(features: Tensor, real: Statistics) -> float:
    """Compute a distance to a copy of the real images' statistics, whose factor has not been computed."""
    return frechet_distance(Statistics.of(features), dataclasses.replace(real))


NAMES = {
    "distance, wide": "Fréchet distance of statistics whose variances fall over six decades",
    "distance": "Fréchet distance",
    "limit": "its limit FD∞, 15 numbers of images",
    "bootstrap": f"its bootstrap, {REPLICATES} replicates",
    "kid": "KID",
    "is": f"Inception score, {CLASSES} classes",
    "neighbours": "precision, recall, density, coverage among all",
}


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: the times of all metrics, and the ratios."""
    if not results:
        return {}
    small, large = results["small"], results["large"]
    rows = []
    for name, seconds in large["seconds"].items():
        before = large["earlier, extrapolated"].get(name)
        ratio = large["ratio"].get(name)
        rows.append(
            [
                NAMES[name],
                f"{seconds:.1f}",
                f"{before:.0f}" if before else "",
                f"{ratio:.1f}" if ratio else "",
            ]
        )
    title = f"seconds, {large['images']:,} images of {results['dimension']} dimensions"
    head = [title, "now", "before", "ratio"]
    both = [
        [
            NAMES[name],
            f"{small[name]['seconds']:.1f}",
            f"{small[name]['earlier']:.1f}",
            f"{small[name]['ratio']:.1f}",
            f"{small[name]['control']:.2f}",
            "none" if small[name].get("equal") else f"{small[name].get('relative difference', 1):.0e}",
        ]
        for name in ("neighbours", "limit")
    ]
    small_head = [f"{small['images']:,} images", "now", "before", "ratio", "control", "difference of results"]
    note = (
        "In the first table, neighbours, and what was before, are extrapolated from a part of the work. "
        f"Processor seconds on one thread ({results['machine']}), at commit {results['commit']}. The control "
        "is the present algorithm beside itself."
    )
    return {BLOCK: "\n\n".join([markdown_table(head, rows), markdown_table(small_head, both), note])}


if __name__ == "__main__":
    main(sys.argv[1:])
