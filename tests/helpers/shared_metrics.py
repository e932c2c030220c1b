"""The metrics as processes compute them together: `torchrun -m -- tests.helpers.shared_metrics FOLDER` writes what each of them finds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.frechet import Statistics
from eval.images.processes import Processes
from eval.metrics.torchmetrics import (
    DensityCoverage,
    FrechetDistance,
    FrechetLimit,
    InceptionScore,
    KernelDistance,
    FeatureMetric,
    PrecisionRecall,
)

SHARES = {"unequal": (0, 91, 130), "all of one": (0, 0, 130)}
"""Where the rows of the first and of the second process begin, and where those end."""


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL, MADE = normal(150, 0), normal(130, 1)
METRICS: tuple[Callable[[], Metric], ...] = (
    lambda: FrechetDistance(Statistics.of(REAL)),
    lambda: FrechetLimit(Statistics.of(REAL)),
    lambda: PrecisionRecall(REAL),
    lambda: DensityCoverage(REAL),
    lambda: KernelDistance(REAL),
    lambda: InceptionScore(),
)


def compute(build: Callable[[], Metric], rows: Tensor) -> Any:
    """What a metric of the rows, given seven by seven, and of those of the other processes is."""
    metric = build()
    for batch in rows.split(7) if len(rows) else ():
        metric.update(MADE[batch], batch) if isinstance(metric, FeatureMetric) else metric.update(MADE[batch])
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
