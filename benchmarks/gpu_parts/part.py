"""The surroundings of a part: its device, its time and its records; and the timing of calls."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.rotation import rotated

Record = dict[str, Any]
GIB = 2**30
TERA = 1e12
ROUNDS = 3
"""Turns of each contestant if the time is enough."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the benchmark, while it runs."""

    tiny: bool
    """Sizes suit a CPU."""
    folder: Path
    """Folder for what it writes beside its records."""
    deadline: float
    """Time of `time.monotonic` at which the process is ended."""
    write: Callable[[Record], None]
    """Keeps a record at once."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def turns(self, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield rounds and names in rotated order, while a contestant's last turn would fit again."""
        lasted: dict[str, float] = {}
        for turn in range(1 if self.tiny else ROUNDS):
            for name in rotated(names, turn):
                if self.seconds_left() < 1.2 * lasted.get(name, 0.0):
                    continue
                start = time.monotonic()
                yield turn, name
                lasted[name] = time.monotonic() - start


def synchronise() -> None:
    """Wait until the device has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_time(do: Callable[[], object]) -> float:
    """Return the seconds of a call, with everything that it makes the device do."""
    synchronise()
    start = time.perf_counter()
    do()
    synchronise()
    return time.perf_counter() - start


def median_time(do: Callable[[], object], seconds: float, most: int = 50) -> float:
    """Return the median time of calls that take about so many seconds together; the first does not count.

    Call once before, so that kernels are chosen and compiled.
    """
    first = measure_time(do)
    count = max(1, min(most, int(seconds / max(first, 1e-6))))
    return statistics.median(measure_time(do) for _ in itertools.repeat(None, count))


def compare_calls(part: Part, calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the median time of each call by name; calls take turns in rotated order."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for do in calls.values():
        do()
    for _, name in part.turns(list(calls)):
        do = calls[name]
        times[name].append(measure_time(do) if part.tiny else median_time(do, seconds / ROUNDS))
    return {name: statistics.median(found) for name, found in times.items() if found}


def memory() -> Record:
    """Return the peak memory since `forget`, in GiB: in tensors, and reserved for them; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
    }


def forget() -> None:
    """Free what no longer has a name, and begin a new peak."""
    gc.collect()
    if "torch._dynamo" in sys.modules:  # loading it takes seconds
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
