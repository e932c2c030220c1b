"""Compare the Fréchet distance at 2048 dimensions with scipy's matrix square root, in value and time.

`OMP_NUM_THREADS=1 python benchmarks/frechet_distance.py` writes benchmarks/results/frechet_distance.json. The
ratio of the times holds for this machine's kernels on one thread: torch and SciPy bring different libraries,
and the speed of each depends on the processor.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import RESULTS, argument_parser
from benchmarks.rotation import kernels, ratio, run_without_overrides, take_turns
from distill.eval.frechet import Statistics, frechet_distance
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine

DIMENSION = 2048
ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """Two sets of random features."""

    counts: tuple[int, int]
    """Images of the two sets."""
    min_variance: float = 1.0
    """Minimum variance over the features' principal directions; the maximum is 1."""


CASES = {
    "full rank": Case((6144, 6144)),
    "spectrum of five decades": Case((6144, 6144), min_variance=1e-5),
    "fewer images than dimensions": Case((1024, 1024)),
    "of one side only": Case((1024, 6144)),
}


def main(arguments: list[str]) -> None:
    argument_parser(__doc__).parse_args(arguments)
    run_without_overrides()
    torch.set_num_threads(1)
    covariances = {name: compare(case) for name, case in CASES.items()}
    results = {
        "dimension": DIMENSION,
        "rounds": ROUNDS,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "kernels": kernels(),
        "machine": machine(),
        "commit": commit(),
        "covariances": covariances,
    }
    write_json(RESULTS / "frechet_distance.json", results)
    for name, result in covariances.items():
        print(name, result)


def compare(case: Case) -> dict[str, Any]:
    """Compute the distance both ways, and time both."""
    random = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, math.log10(case.min_variance), DIMENSION).double().sqrt()
    a, b = (Statistics.of(draw_features(count, scales, random)) for count in case.counts)
    ours = frechet_distance(a, b)
    theirs = by_matrix_root(a, b)
    contestants = {
        "ours": partial(frechet_distance, a, b),
        "sqrtm": partial(by_matrix_root, a, b),
        "ours again": partial(frechet_distance, a, b),
    }
    times = take_turns(contestants, ROUNDS)
    return {
        "ours": ours,
        "by scipy.linalg.sqrtm": theirs,
        "relative difference": abs(ours - theirs) / abs(theirs),
        "seconds": times,
        "sqrtm over ours": ratio(times, "sqrtm", "ours"),
        "control, ours again over ours": ratio(times, "ours again", "ours"),
    }


def draw_features(count: int, scales: Tensor, random: torch.Generator) -> Tensor:
    """Draw normal features, (count, d), whose principal directions are random and have these scales, (d,)."""
    dimension = len(scales)
    features = torch.randn(count, dimension, generator=random, dtype=torch.float64) * scales
    square = torch.randn(dimension, dimension, generator=random, dtype=torch.float64)
    return features @ torch.linalg.qr(square).Q


def by_matrix_root(a: Statistics, b: Statistics) -> float:
    """Compute the distance with `scipy.linalg.sqrtm`, as clean-fid, pytorch-fid and EDM do."""
    root = scipy.linalg.sqrtm((a.cov @ b.cov).numpy())
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root).real)


if __name__ == "__main__":
    main(sys.argv[1:])
