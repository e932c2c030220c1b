"""Timings that can be believed: contestants take turns in an order that rotates, one of them twice, in a process with the machine's own BLAS.

A contestant that is entered under two names is the control: the ratio of its two times says how far a ratio of 1 may be off here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that choose a kernel of NumPy's BLAS which may be several times slower than the machine's own."""


def run_without_overrides() -> None:
    """Start this script again without the variables that choose a BLAS kernel, and end with its exit code; go on where none is set.

    BLAS reads them when it is loaded, so they cannot be unset in the process itself.
    """
    if any(name in os.environ for name in OVERRIDES):
        environment = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)


def kernels() -> list[str]:
    """The linear algebra libraries that are loaded, with their kernels and threads."""
    from threadpoolctl import threadpool_info

    found = threadpool_info()
    return [
        f"{one['internal_api']} {one.get('architecture', '')} {one['version']}, {one['num_threads']} threads"
        for one in found
    ]


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Wall and processor seconds of each contestant in each round, after a round that does not count."""
    names = list(contestants)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            wall, processor = time.perf_counter(), time.process_time()
            contestants[name]()
            took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
            if turn >= 0:
                times[name].append(took)
    return times


def ratio(
    times: Mapping[str, list[dict[str, float]]], slow: str, fast: str, clock: str = "processor"
) -> dict[str, float]:
    """How many times longer one takes than the other: the median over rounds, the least and the greatest."""
    ratios = [a[clock] / b[clock] for a, b in zip(times[slow], times[fast], strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
