"""The Fréchet distance at 2048 dimensions against scipy's matrix square root: value and time of both in one run, on one thread.

`OMP_NUM_THREADS=1 python benchmarks/frechet_distance.py` writes `benchmarks/results/frechet_distance.json`. The ratio is one of this machine's
kernels: torch and SciPy bring different libraries, and how fast each is depends on the processor.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.rotation import kernels, ratio, run_without_overrides, take_turns  # noqa: E402
from distill.storage.files import write_json  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402
from eval.frechet import Statistics, frechet_distance  # noqa: E402

DIMENSION = 2048
ROUNDS = 3
KINDS = {
    "full rank": ((6144, 6144), 1.0),
    "spectrum of five decades": ((6144, 6144), 1e-5),
    "fewer images than dimensions": ((1024, 1024), 1.0),
    "of one side only": ((1024, 6144), 1.0),
}
"""Images of the two sides, and the least variance of a direction where the largest is 1."""


def main() -> None:
    run_without_overrides()
    torch.set_num_threads(1)
    results = {kind: measure(*setting) for kind, setting in KINDS.items()}
    about = {
        "dimension": DIMENSION,
        "rounds": ROUNDS,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    about |= {"kernels": kernels(), "machine": machine(), "commit": commit()}
    write_json(ROOT / "benchmarks" / "results" / "frechet_distance.json", {**about, "covariances": results})
    for kind, result in results.items():
        print(kind, result)


def measure(counts: tuple[int, int], least: float) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    scales = torch.logspace(0, float(np.log10(least)), DIMENSION).double().sqrt()
    a, b = (
        Statistics.of(normal(count, DIMENSION) * scales @ torch.linalg.qr(normal(DIMENSION, DIMENSION)).Q)
        for count in counts
    )
    ours, theirs = frechet_distance(a, b), by_matrix_root(a, b)
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


def by_matrix_root(a: Statistics, b: Statistics) -> float:
    """As clean-fid, pytorch-fid and EDM compute it."""
    root = scipy.linalg.sqrtm((a.cov @ b.cov).numpy())
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root).real)


if __name__ == "__main__":
    main()
