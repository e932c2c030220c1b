"""Measure how training speeds up with GPUs: `python benchmarks/scaling.py`.

Runs with random weights take some steps on 1, 2, 4, ... GPUs of this machine, by torchrun, with each sharding
strategy. Weak scaling keeps the images of a process and lets the batch grow; strong scaling keeps the batch.
Each point has images per second and their ratio to one process, the peak memory of the fullest process, and
what the dry run predicts: that memory, and the bytes that a process sends in a step.

Writes benchmarks/results/scaling.json and the table in docs/clusters.md. It needs two GPUs. `--cpu` tests the
script itself with small sizes and processes of a CPU, into the file that `--out` names; such times mean
nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table
from benchmarks.gpu_parts.part import synchronise
from benchmarks.gpu_parts.runs import configure
from benchmarks.project import ROOT, argument_parser
from benchmarks.steps import Enough, Update, make_steps
from distill.config.errors import UserError
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from distill.training.distillation.task import Distillation
from distill.training.dry_run.cost import measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.step import META, meta_teacher_of
from distill.training.settings import DistillRun

RESULTS = project.RESULTS / "scaling.json"
BLOCK = Block(ROOT / "docs" / "clusters.md", "scaling")
MEASURED = "measured.json"
"""File in which the processes of a point leave their results."""
NOT_RUN = "Not run: no results of several GPUs are committed."
MIB, GIB = 2**20, 2**30
WARM_UP = 3
"""Steps that are not timed: they compile, choose kernels and make the optimisers' state."""
Kind = Literal["weak", "strong"]
KINDS: tuple[Kind, ...] = ("weak", "strong")
STRATEGIES = ("none", "full", "hybrid")
WHOLE = "{name: copy}"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of benchmarks/gpu_parts/runs.py, and its batches."""

    images: int
    """Images of a process in weak scaling."""
    batch: int
    """Images of all processes in strong scaling."""
    micro_batch: int
    """Images that a process computes at once at most."""
    overrides: tuple[str, ...] = ()


RUNS = {
    "cifar10_sid": Run(128, 1024, 128, ("--precision", "bf16")),
    "sdxl_dmd2": Run(
        *(4, 32, 4),
        (
            *("--precision", "bf16-true", "--generator.network", WHOLE, "--fake.network", WHOLE),
            *("--fake.updates", "1"),
        ),
    ),
}
"""A network that fits on any GPU, and one that is trained in full, and fits when it is sharded."""
ON_CPU = Run(2, 8, 8)
"""Batches of small sizes."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A run on so many processes."""

    run: str
    kind: Kind
    strategy: str
    processes: int

    def config(self, folder: Path, cpu: bool) -> DistillRun:
        """Configure it, with data in the folder."""
        run = RUNS[self.run]
        sizes = ON_CPU if cpu else run
        batch = sizes.images * self.processes if self.kind == "weak" else sizes.batch
        sharding = f"{{strategy: {self.strategy}}}"
        if self.strategy == "hybrid":
            sharding = f"{{strategy: hybrid, group_size: {self.processes // 2}}}"
        words = (
            *("--batch_size", str(batch), "--micro_batch_size", str(sizes.micro_batch)),
            *("--sharding", sharding, "--steps", "100000", "--log_every", "100000"),
            *("--sample_every", "100000", "--checkpoint_every", "100000", "--monitor_every", "100000"),
            *("--device", "cpu" if cpu else "cuda"),
        )
        return configure(self.run, (*run.overrides, *words), folder, cpu)


class Row(TypedDict, total=False):
    """A point with its results, or with the message of one that failed."""

    run: str
    kind: Kind
    strategy: str
    processes: int
    batch_size: int
    step_s: float
    images_per_s: float
    ratio: float | None
    """Images per second, over those of one process; None if that one failed."""
    peak_gib: float
    """Memory of the fullest process: in tensors on a GPU, resident on a CPU."""
    predicted_peak_gib: float
    sent_mib: dict[str, float]
    """What a process sends in a step as the dry run predicts, by kind."""
    failed: str


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.point is not None:
        measure(Point(**json.loads(options.point)), options)
        return
    devices = torch.cuda.device_count()
    if not options.cpu and devices < 2:
        raise SystemExit(
            f"scaling.py: not run: found {devices} GPUs; expected at least 2, or --cpu to test it"
        )
    most = options.processes or (2 if options.cpu else devices)
    conditions = {"machine": machine(), "gpus": devices, "commit": commit(), "torch": torch.__version__}
    results: dict[str, Any] = {"conditions": {**conditions, "cpu": options.cpu}, "rows": []}
    rows: list[Row] = results["rows"]
    for point in points(options.runs, options.kinds, options.strategies, most):
        rows.append(complete(point, options, rows))
        print(rows[-1], flush=True)
        write_json(options.out, results)
    if options.out == RESULTS:
        BLOCK.write(render(results)[BLOCK])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. `--point` and `--folder` are those of a point's own processes."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=None, help="file of the results, as JSON")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=tuple(RUNS), help="runs (default: all)")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="strategies (default: all)"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds (default: both)")
    parser.add_argument("--processes", type=int, help="largest number of processes (default: all GPUs)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a point (default: 10)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of a point (default: 10)")
    parser.add_argument("--cpu", action="store_true", help="small sizes on a CPU, to test the script")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cpu and options.out is None:
        parser.error("--cpu: expected --out FILE, since such results are not to be committed")
    options.out = options.out or RESULTS
    return options


def points(
    runs: Sequence[str], kinds: Sequence[Kind], strategies: Sequence[str], most: int
) -> Iterator[Point]:
    """Yield the points: one process first, which all others are compared with."""
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    for run in runs:
        for kind in kinds:
            yield Point(run, kind, "none", 1)
            for count in counts[1:]:
                # A copy of the networks on one process is not sharded.
                yield from (
                    Point(run, kind, strategy, count)
                    for strategy in strategies
                    if strategy != "hybrid" or count >= 4
                )


def complete(point: Point, options: argparse.Namespace, before: Sequence[Row]) -> Row:
    """Predict and measure a point, and compare it with the one process of the rows before."""
    row = Row(run=point.run, kind=point.kind, strategy=point.strategy, processes=point.processes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = point.config(Path(folder), options.cpu)  # which writes the data
            row["batch_size"] = config.batch_size
            row |= predict(config, point.processes)
            row |= launch(point, options, Path(folder))
        except (UserError, RuntimeError) as error:
            row["failed"] = str(error)
            return row
    row["images_per_s"] = config.batch_size / row["step_s"]
    row["ratio"] = None
    for other in [*before, row]:
        is_reference = (other["run"], other["kind"], other["processes"]) == (point.run, point.kind, 1)
        if is_reference and "images_per_s" in other:
            row["ratio"] = row["images_per_s"] / other["images_per_s"]
    return row


def predict(config: DistillRun, processes: int) -> Row:
    """Return what the dry run says of one process."""
    plan = Plan.of(config, processes)
    own = plan.of_one_process(config)
    cost = measure_own(simulate_distillation(own, meta_teacher_of(own), META, plan), own)
    sent = {kind: size / MIB for kind, size in cost.traffic._asdict().items()}
    return Row(predicted_peak_gib=cost.peak / GIB, sent_mib=sent)


def launch(point: Point, options: argparse.Namespace, folder: Path) -> Row:
    """Measure a point in processes of its own. Raises RuntimeError with their last words if they fail."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(point.processes)]
    words = ["--point", json.dumps(dataclasses.asdict(point)), "--folder", str(folder)]
    words += ["--steps", str(options.steps), *(["--cpu", "--out", "/dev/null"] if options.cpu else [])]
    command = [sys.executable, *(launcher if point.processes > 1 else []), __file__, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun has it
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60 * options.minutes
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"its {options.minutes:g} minutes were over") from error
    measured = folder / MEASURED
    if not measured.is_file():
        raise RuntimeError(done.stderr[-2000:])
    row: Row = read_json(measured)
    return row


def measure(point: Point, options: argparse.Namespace) -> None:
    """Make the steps of a point as one of its processes; the first one writes what all measured."""
    seconds: list[float] = []

    def watch(task: Distillation, step: int, update: Update) -> Mapping[str, Any]:
        if step == WARM_UP + options.steps:
            peaks = task.processes.gather_objects(peak_bytes())
            if task.processes.is_main:
                row = Row(step_s=statistics.median(seconds[WARM_UP:]), peak_gib=max(peaks) / GIB)
                write_json(options.folder / MEASURED, row)
            task.processes.wait()
            raise Enough
        synchronise()
        if step == WARM_UP and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # of what was loaded
        start = time.perf_counter()
        metrics = update()
        synchronise()
        seconds.append(time.perf_counter() - start)
        return metrics

    make_steps(point.config(options.folder, options.cpu), watch)


def peak_bytes() -> int:
    """Return the largest memory of this process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: a table of all points, or that there are none."""
    if not results:
        return {BLOCK: NOT_RUN}
    head = ["run", "scaling", "sharding", "GPUs", "batch", "images/s", "ratio", "GiB (predicted)", "GiB sent"]
    conditions = results["conditions"]
    where = f"{conditions['gpus']} GPUs: {conditions['machine']}, commit {conditions['commit']}."
    return {BLOCK: f"{where}\n\n{markdown_table(head, map(table_row, results['rows']))}"}


def table_row(row: Row) -> list[str]:
    """Return a point's row of the table."""
    cells = [row["run"], row["kind"], row["strategy"], str(row["processes"]), str(row.get("batch_size", ""))]
    if "failed" in row:
        return [*cells, "failed", "", "", ""]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    memory = f"{row['peak_gib']:.1f} ({row['predicted_peak_gib']:.1f})"
    sent = f"{sum(row['sent_mib'].values()) / 1024:.2f}"
    return [*cells, f"{row['images_per_s']:.1f}", ratio, memory, sent]


if __name__ == "__main__":
    main(sys.argv[1:])
