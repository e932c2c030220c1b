"""Statistics of a run: means of metrics, the time of each part of a step, and the lines of stats.jsonl."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from distill.config.errors import TrainingError
from distill.storage.files import write_text


class Clock:
    """Measures the seconds spent in each named part since the last `take`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Return the seconds as `time/<part>`, and start again from zero."""
        taken, self.seconds = {f"time/{part}": round(value, 4) for part, value in self.seconds.items()}, {}
        return taken


class Averages:
    """Averages metrics over the steps between two lines; a step without a metric does not count for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self, average: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means, and start again; `average` takes the mean of a tensor over processes."""
        if not self.sums:
            return {}
        means = average(torch.stack([total.float() / self.counts[name] for name, total in self.sums.items()]))
        taken = dict(zip(self.sums, means.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return taken


def append_line(path: Path, values: Mapping[str, float]) -> None:
    """Append one line of statistics, as JSON; a value that is not finite becomes null."""
    clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
    with path.open("ab+") as file:
        # A crash may have left half a line: start a new one.
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")
        file.write(json.dumps(clean).encode() + b"\n")


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines after `step`, and lines that are not JSON.

    A run that continues from a checkpoint writes them again.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if (found := _step_of(line)) is not None and found <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    found = values.get("step") if isinstance(values, dict) else None
    return found if isinstance(found, (int, float)) else None


def check_finite(losses: Mapping[str, Tensor], step: int, u: Tensor) -> None:
    """Raise TrainingError, with step, loss and noise levels, if a loss is not finite."""
    for name, loss in losses.items():
        if not loss.isfinite():
            raise TrainingError(
                f"step {step}: loss '{name}' is {loss.item()}; its batch's noise levels are quantiles "
                f"{u.min():.4f} to {u.max():.4f}; the last checkpoint is untouched"
            )
