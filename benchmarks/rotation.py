"""Compare times on one machine: contestants take turns in an order that rotates.

One contestant is entered under two names as a control: the ratio of its two times shows how far a ratio of 1
may be off on this machine. The process uses the machine's own BLAS kernels.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that choose a kernel of NumPy's BLAS, perhaps several times slower than the machine's own."""


class Seconds(TypedDict):
    """Time of one turn: by the clock, and of the processor."""

    wall: float
    processor: float


class Ratio(TypedDict):
    """Median, minimum and maximum over rounds of the ratio of two times."""

    median: float
    least: float
    greatest: float


def run_without_overrides() -> None:
    """Start this script again without `OVERRIDES`, if one is set, and exit with its exit code.

    BLAS reads the variables when it is loaded, so they cannot be unset in the process itself.
    """
    if any(name in os.environ for name in OVERRIDES):
        environment = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)


def kernels() -> list[str]:
    """List the linear algebra libraries that are loaded, with their kernels and numbers of threads."""
    from threadpoolctl import threadpool_info

    return [
        f"{library['internal_api']} {library.get('architecture', '')} {library['version']}, "
        f"{library['num_threads']} threads"
        for library in threadpool_info()
    ]


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Seconds]]:
    """Time each contestant in each round, after a warm-up round that does not count."""
    names = list(contestants)
    times: dict[str, list[Seconds]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        for name in rotated(names, turn):
            seconds = measure_time(contestants[name])
            if turn >= 0:
                times[name].append(seconds)
    return times


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in the order of a round, each of which begins one place later."""
    return [names[(position + turn) % len(names)] for position in range(len(names))]


def measure_time(do: Callable[[], object]) -> Seconds:
    """Return the time of one call."""
    wall = time.perf_counter()
    processor = time.process_time()
    do()
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def ratio(
    times: Mapping[str, list[Seconds]],
    slow: str,
    fast: str,
    clock: Literal["wall", "processor"] = "processor",
) -> Ratio:
    """Return how many times longer `slow` takes than `fast`, by one of the two clocks."""
    ratios = [a[clock] / b[clock] for a, b in zip(times[slow], times[fast], strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
