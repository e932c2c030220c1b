"""Metrics that several processes compute together.

`torchrun -m -- tests.helpers.shared_metrics FOLDER` writes what each process computes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.eval.frechet import Statistics
from distill.eval.images.processes import Processes
from distill.eval.metrics.torchmetrics import (
    DensityCoverage,
    FeatureMetric,
    FrechetDistance,
    FrechetLimit,
    FrechetRatio,
    GaussianMMD,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
)

SHARES = {"unequal": (0, 91, 130), "all of one": (0, 0, 130)}
"""First row of the first process, first row of the second, and the number of rows."""


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL, MADE, HELD_OUT = normal(150, 0), normal(130, 1), normal(90, 2)
METRICS: tuple[Callable[[], Metric], ...] = (
    lambda: FrechetDistance(Statistics.of(REAL)),
    lambda: FrechetLimit(Statistics.of(REAL)),
    lambda: FrechetRatio(HELD_OUT, Statistics.of(REAL)),
    lambda: GaussianMMD(REAL),
    lambda: PrecisionRecall(REAL),
    lambda: DensityCoverage(REAL),
    lambda: KernelDistance(REAL),
    lambda: InceptionScore(),
)


def compute(build: Callable[[], Metric], rows: Tensor) -> Any:
    """Compute a metric of these rows, given in batches of seven, and of the rows of the other processes."""
    metric = build()
    for batch in rows.split(7) if len(rows) else ():
        if isinstance(metric, FeatureMetric):
            metric.update(MADE[batch], batch)
        else:
            metric.update(MADE[batch])
    found = metric.compute()
    return float(found) if isinstance(found, Tensor) else found


def main(folder: Path) -> None:
    processes = Processes.of_environment()
    found = {}
    for name, edges in SHARES.items():
        rows = torch.arange(edges[processes.number], edges[processes.number + 1])
        found[name] = [compute(build, rows) for build in METRICS]
    (folder / f"{processes.number}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
