"""The Fréchet distance at 2048 dimensions against scipy's matrix square root: time and value of both in one run, on one thread.

`python benchmarks/frechet_distance.py` writes `benchmarks/results/frechet_distance.json`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.files import write_json  # noqa: E402
from distill.run_folder import commit, machine  # noqa: E402
from eval.frechet import Statistics, frechet_distance  # noqa: E402

DIMENSION = 2048
KINDS = {
    "full rank": ((6144, 6144), 1.0),
    "spectrum of five decades": ((6144, 6144), 1e-5),
    "fewer images than dimensions": ((1024, 1024), 1.0),
    "of one side only": ((1024, 6144), 1.0),
}
"""Images of the two sides, and the least variance of a direction where the largest is 1."""


def main() -> None:
    torch.set_num_threads(1)
    results = {kind: measure(*setting) for kind, setting in KINDS.items()}
    about = {"dimension": DIMENSION, "scipy": scipy.__version__, "machine": machine(), "commit": commit()}
    write_json(ROOT / "benchmarks" / "results" / "frechet_distance.json", {**about, "seconds are those of the processor": results})
    for kind, result in results.items():
        print(kind, result)


def measure(counts: tuple[int, int], least: float) -> dict[str, float]:
    random = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    scales = torch.logspace(0, float(np.log10(least)), DIMENSION).double().sqrt()
    a, b = (Statistics.of(normal(count, DIMENSION) * scales @ torch.linalg.qr(normal(DIMENSION, DIMENSION)).Q) for count in counts)
    ours, our_seconds = timed(lambda: frechet_distance(a, b))
    theirs, their_seconds = timed(lambda: by_matrix_root(a, b))
    return {
        "ours": ours,
        "by scipy.linalg.sqrtm": theirs,
        "relative difference": abs(ours - theirs) / abs(theirs),
        "our seconds": our_seconds,
        "seconds of sqrtm": their_seconds,
        "times faster": their_seconds / our_seconds,
    }


def by_matrix_root(a: Statistics, b: Statistics) -> float:
    """As clean-fid, pytorch-fid and EDM compute it."""
    root = scipy.linalg.sqrtm((a.cov @ b.cov).numpy())
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root).real)


def timed(function: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    return function(), time.process_time() - start


if __name__ == "__main__":
    main()
