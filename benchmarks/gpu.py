"""Measure the toolkit on one GPU: `python benchmarks/gpu.py --out FILE --minutes 8`.

It needs no files and no installation: networks have published sizes and random weights, and data are random.
Each part runs in a process of its own with a limit of time, the most telling first, and FILE is written after
every measurement. So a part that fails, or a run that is cut short, costs only its own results. What is
compared takes turns in rotated order, and one contestant is entered twice as a control. Rates are in TFLOP/s
of the operations that the dry run counts for a step, beside the card's own rate for matrix products.

`--tiny` takes small sizes, for a CPU: it shows that every part works, and its times mean nothing. Without
`--out` the results become benchmarks/results/gpu.json, and the table in docs/speed.md is written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block
from benchmarks.gpu_parts.card import measure_card
from benchmarks.gpu_parts.evaluation import measure_evaluation
from benchmarks.gpu_parts.floor import measure_floor
from benchmarks.gpu_parts.part import Part, Record
from benchmarks.gpu_parts.resume import measure_resumption
from benchmarks.gpu_parts.runs import SETUPS
from benchmarks.gpu_parts.sampling import measure_sampling
from benchmarks.gpu_parts.table import render_results
from benchmarks.gpu_parts.training import compare_runs, predict_runs
from benchmarks.project import ROOT, argument_parser
from distill.storage.files import write_json

RESULTS = project.RESULTS / "gpu.json"
BLOCK = Block(ROOT / "docs" / "speed.md", "gpu")
PREDICTIONS = "predictions"
"""The part that runs beside the others, on a CPU."""
LOOK_EVERY = 0.2
"""Seconds between looks for new records of a part."""
SHARES = {
    "card": 12,
    "sdxl_dmd2": 100,
    "cifar10_sid": 50,
    "cifar10_uni_instruct": 50,
    "digits": 50,
    "floor": 30,
    "cifar10_f_distill": 50,
    "resume": 40,
    "sdxl_di_star": 60,
    "sampling": 40,
    "evaluation": 20,
    "scene_vsd": 40,
    "imagenet64": 40,
}
"""Parts in their order, with their shares of the time. What a part leaves goes to those after it."""
OTHER_PARTS: dict[str, Callable[[Part], None]] = {
    "card": measure_card,
    "floor": measure_floor,
    "resume": measure_resumption,
    "sampling": measure_sampling,
    "evaluation": measure_evaluation,
}
"""Parts that are no training runs."""


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.part:
        run_part(options)
        return
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("gpu.py: no CUDA device; expected one, or --tiny")
    results: Record = {"tiny": options.tiny, "minutes": options.minutes, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        measure_parts(options, Path(folder), results)
    write_json(options.out, results)
    if options.out == RESULTS:
        BLOCK.write(render(results)[BLOCK])
    print(render_results(results))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. `--part` runs one part in this process, until the time of `--deadline`."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results, as JSON")
    parser.add_argument("--minutes", type=float, default=8.0, help="time of all parts together (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=SHARES, default=tuple(SHARES), metavar="PART", help="parts to measure"
    )
    parser.add_argument("--part", choices=(*SHARES, PREDICTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure_parts(options: argparse.Namespace, folder: Path, results: Record) -> None:
    """Measure the parts in turn, and the dry run's predictions beside them; write what is known so far."""
    end = time.monotonic() + 60 * options.minutes
    waiting = [name for name in SHARES if name in options.only]
    collect = partial(_collect, folder, results, options.out)
    trained = [name for name in waiting if name in SETUPS]
    predicting = start_part(PREDICTIONS, options, folder, end, trained) if trained else None
    try:
        while waiting:
            share = SHARES[waiting[0]] / sum(SHARES[name] for name in waiting)
            name = waiting.pop(0)
            now = time.monotonic()
            if now < end:
                wait_for(name, options, folder, now + share * (end - now), collect)
        if predicting is not None:
            _wait(predicting, end, collect)
            collect(PREDICTIONS, {"exit code": predicting.poll()})
    finally:
        if predicting is not None:
            stop(predicting)


def wait_for(
    name: str, options: argparse.Namespace, folder: Path, deadline: float, collect: Callable[..., None]
) -> None:
    """Run a part in a process of its own until its deadline, and say how it ended."""
    print(f"{name}: at most {deadline - time.monotonic():.0f} s", flush=True)
    start = time.monotonic()
    process = start_part(name, options, folder, deadline, ())
    try:
        _wait(process, deadline, lambda: collect(name))
        ended: Record = {"seconds": time.monotonic() - start, "exit code": process.poll()}
    finally:
        stop(process)
    if ended["exit code"] is None:
        ended["failed"] = "its time was over"
    elif ended["exit code"]:
        ended["failed"] = _last_lines(folder / f"{name}.log")
    collect(name, ended)
    print(f"{name}: {ended}", flush=True)


def start_part(
    name: str, options: argparse.Namespace, folder: Path, deadline: float, only: list[str] | tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """Start a part in a process, and a process group, of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--deadline", str(deadline)]
    command += ["--records", str(folder / f"{name}.jsonl"), *(["--tiny"] if options.tiny else [])]
    command += ["--only", *only] if only else []
    environment = dict(os.environ)
    if name == PREDICTIONS:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("wb") as log:
        # Paths in presets are relative to the project's folder.
        return subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _wait(process: subprocess.Popen[bytes], deadline: float, look: Callable[[], None]) -> None:
    """Wait until the process ends or its time is over, and look for new records all the while."""
    while process.poll() is None and time.monotonic() < deadline:
        look()
        time.sleep(LOOK_EVERY)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part's process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _collect(folder: Path, results: Record, out: Path, name: str = "", ended: Record | None = None) -> None:
    """Read the records of all parts so far, and write the results if there are new ones."""
    before = json.dumps(results)
    for file in folder.glob("*.jsonl"):
        part = results["parts"].setdefault(file.stem, {})
        part["records"] = [
            json.loads(line) for line in file.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
    if ended is not None:
        results["parts"].setdefault(name, {"records": []}).update(ended)
    if json.dumps(results) != before:
        write_json(out, results)


def _last_lines(log: Path) -> str:
    """Return the end of what a part printed."""
    return log.read_text(errors="replace")[-2000:] if log.is_file() else ""


def run_part(options: argparse.Namespace) -> None:
    """Run one part in this process, and append its records to its file."""
    with tempfile.TemporaryDirectory() as folder, options.records.open("a") as file:

        def write(record: Mapping[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        part = Part(options.tiny, Path(folder), options.deadline, write)
        if options.part == PREDICTIONS:
            os.nice(10)  # it runs beside a part whose time is measured
            predict_runs(part, tuple(name for name in options.only if name in SETUPS))
        elif options.part in SETUPS:
            compare_runs(part, options.part)
        else:
            OTHER_PARTS[options.part](part)


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: the results of a card, or that there are none."""
    return {BLOCK: render_results(results)}


if __name__ == "__main__":
    main(sys.argv[1:])
