"""Statistics of a run: means of metrics, the time of each part of a step, and the lines of stats.jsonl."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.storage.files import write_text

if TYPE_CHECKING:
    from accelerate import Accelerator

SQUARE = "^2"
"""Ending of the name of a metric that is a square, whose mean's root is logged."""


class Clock:
    """Measures the seconds spent in each named part since the last `take`.

    On a GPU they are those of the device, whose work begins long after the host has asked for it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.uses_events = device is not None and device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.uses_events:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            try:
                yield
            finally:
                end.record()
                self.events.append((part, start, end))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self._add(part, time.perf_counter() - began)

    def take(self) -> dict[str, float]:
        """Return the seconds as `time/<part>`, and start again from zero."""
        for part, start, end in self.events:
            end.synchronize()
            self._add(part, start.elapsed_time(end) / 1000)
        self.events = []
        taken, self.seconds = {f"time/{part}": round(value, 4) for part, value in self.seconds.items()}, {}
        return taken

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


class Averages:
    """Averages metrics over the steps between two lines; a step without a metric does not count for it."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the metrics of a step, scalars on one device; a step may have none."""
        if not metrics:
            return
        names = tuple(metrics)
        values = torch.stack([value.detach().double() for value in metrics.values()])
        self.sums[names] = self.sums[names] + values if names in self.sums else values
        self.counts[names] = self.counts.get(names, 0) + 1

    def take(self, average: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means, and start again; `average` takes the mean of a tensor over processes.

        Roots and standard deviations are computed from the means of squares.
        """
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for names, totals in self.sums.items():
            for name, total in zip(names, totals, strict=True):
                sums[name] = sums[name] + total if name in sums else total
                counts[name] = counts.get(name, 0) + self.counts[names]
        self.sums, self.counts = {}, {}
        if not sums:
            return {}
        means = average(torch.stack([total / counts[name] for name, total in sums.items()]))
        return with_roots(dict(zip(sums, means.tolist(), strict=True)))


def as_root(name: str, square: Tensor) -> dict[str, Tensor]:
    """Return the metric whose root is logged as `name`, after its mean over the batch is taken.

    The mean of roots of parts of a batch would depend on how the batch is split.
    """
    return {f"{name}{SQUARE}": square}


def as_mean_and_std(name: str, values: Tensor) -> dict[str, Tensor]:
    """Return the metrics of which `name_mean` and `name_std` are logged, those of all steps of a line."""
    values = values.detach().double()
    return {f"{name}_mean": values.mean(), f"{name}_std{SQUARE}": values.square().mean()}


def with_roots(means: Mapping[str, float]) -> dict[str, float]:
    """Replace means of squares by what `as_root` and `as_mean_and_std` say is logged."""
    found = {}
    for name, value in means.items():
        logged = name.removesuffix(SQUARE)
        if logged == name:
            found[name] = value
            continue
        if logged.endswith("_std"):
            value -= means[f"{logged.removesuffix('_std')}_mean"] ** 2
        found[logged] = math.sqrt(max(value, 0.0))
    return found


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


def start_trackers(
    trackers: Accelerator, project: str, name: str, settings: Mapping[str, Any], step: int
) -> None:
    """Start the trackers of a run that continues after `step`, 0 for a new one."""
    trackers.init_trackers(
        project,
        config={"config": json.dumps(settings)},
        init_kwargs={
            "tensorboard": {"purge_step": step + 1},
            "wandb": {"name": name},
            "trackio": {"name": name, "resume": "allow" if step else "never"},
        },
    )


def log_picture(trackers: Accelerator, name: str, path: Path, step: int) -> None:
    """Give a picture in a file to every tracker."""
    for tracker in trackers.trackers:
        if tracker.name == "trackio":  # which accelerate gives no pictures
            import trackio

            tracker.log({name: trackio.Image(str(path))}, step=step)
            continue
        with Image.open(path) as image:
            picture = image.convert("RGB")
        if tracker.name == "tensorboard":
            tracker.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        else:
            tracker.log_images({name: [picture]}, step=step)


def _step_of(line: str) -> float | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    found = values.get("step") if isinstance(values, dict) else None
    return found if isinstance(found, (int, float)) else None
