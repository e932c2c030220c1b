"""Compare the time of a step of this checkout with that of another: `python benchmarks/step_time.py OTHER`.

Each contestant is a process that holds a run and makes steps when it is asked to. They take turns in an order
that rotates, on one thread; the other checkout runs twice, and the ratio of its two times is the control. The
ratios are those of processor time. The results become benchmarks/results/step_time.json, or the file that
`--out` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

sys.path.append(str(Path(__file__).parents[1]))  # behind PYTHONPATH, which may name another checkout

from benchmarks import rotation
from benchmarks.dispatched_operations import configure
from benchmarks.project import ROOT, argument_parser
from benchmarks.rotation import Seconds, measure_time
from benchmarks.steps import Enough, Update, make_steps
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.distillation.task import Distillation

RESULTS = Path(__file__).parent / "results" / "step_time.json"
RUNS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "digits, sid": ("digits/sid", (), 10),
    "digits, f_distill": ("digits/f_distill", (), 10),
    "digits, uni_instruct": ("digits/uni_instruct", (), 10),
    "CIFAR-10 size, sid, batch of 2": ("cifar10/sid_cond", ("--batch_size", "2", "--precision", "fp32"), 1),
}
"""Presets, overrides, and steps in a turn."""


class Contestant:
    """A process that makes the steps of a run of one checkout."""

    def __init__(self, checkout: Path, run: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--make", run],
            env=environment,
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def turn(self) -> Seconds:
        """Have the process make the steps of one turn, and return their time."""
        print(file=self.process.stdin, flush=True)
        for line in cast(IO[str], self.process.stdout):
            if line.startswith("seconds "):
                wall, processor = line.split()[1:]
                return {"wall": float(wall), "processor": float(processor)}
        raise SystemExit(f"a contestant ended with exit code {self.process.wait()}")

    @contextmanager
    def running(self) -> Any:
        """End the process after the block."""
        try:
            yield self
        finally:
            self.process.kill()
            self.process.wait()


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("other", nargs="?", type=Path, help="folder of the other checkout")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=tuple(RUNS), help="runs (default: all)")
    parser.add_argument("--make", choices=RUNS, help="make the steps of this run as a contestant")
    options = parser.parse_args(arguments)
    if options.make is not None:
        make_turns(options.make)
        return
    if options.other is None:
        parser.error("expected the folder of another checkout")
    other = options.other.resolve()
    commits = {"this": commit(), "other": _git_commit(other)}
    results: dict[str, Any] = {"conditions": {"machine": machine(), "commits": commits, "threads": 1}}
    for name in options.runs:
        results[name] = compare(name, other, options.rounds)
        print(name, results[name], flush=True)
        write_json(options.out, results)


def compare(run: str, other: Path, rounds: int) -> dict[str, Any]:
    """Return how many times longer a step of the other checkout takes, and the control's ratio."""
    checkouts = {"this": ROOT, "other": other, "other again": other}
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(checkout, run).running())
            for name, checkout in checkouts.items()
        }
        times: dict[str, list[Seconds]] = {name: [] for name in contestants}
        for round_ in range(-1, rounds):
            for name in rotation.rotated(list(contestants), round_):
                seconds = contestants[name].turn()
                if round_ >= 0:
                    times[name].append(seconds)
    return {
        "other/this": rotation.ratio(times, "other", "this"),
        "control": rotation.ratio(times, "other", "other again"),
        "rounds": rounds,
    }


def make_turns(run: str) -> None:
    """Make a turn's steps for each line of standard input, and print their time."""
    preset, overrides, count = RUNS[run]
    made = 0

    def watch(task: Distillation, step: int, update: Update) -> Mapping[str, Any]:
        nonlocal made
        if made == 0 and not sys.stdin.readline():
            raise Enough
        found: dict[str, Any] = {}
        seconds = measure_time(lambda: found.update(update()))
        totals["wall"] += seconds["wall"]
        totals["processor"] += seconds["processor"]
        made += 1
        if made == count:
            print("seconds", totals["wall"], totals["processor"], flush=True)
            made, totals["wall"], totals["processor"] = 0, 0.0, 0.0
        return found

    totals: Seconds = {"wall": 0.0, "processor": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        config = configure(preset, (*overrides, "--steps", "100000"), Path(folder))
        make_steps(config, watch)


def _git_commit(folder: Path) -> str:
    words = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    main(sys.argv[1:])
