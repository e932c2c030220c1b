"""Measure how the steps of a run scale with the number of GPUs: `python benchmarks/scaling.py CONFIG`.

Weak scaling grows the batch with the number of processes, strong scaling divides it. Each measurement is a
run of its own, by torchrun, for 1, 2, 4, ... processes and each strategy of sharding. It notes images per
second, the largest memory of a process, and what a process sends in a step as the dry run counts it. With
`--cpu`, processes on the CPU take the place of GPUs, to try the script. Settings to override stand after
` -- `, such as ` -- --batch_size=64`. The results become benchmarks/results/scaling.json, or the file that
`--out` names.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import torch

from benchmarks.project import ROOT, argument_parser
from distill.config.errors import UserError
from distill.storage.files import read_mapping, write_json
from distill.storage.provenance import commit, machine
from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.dry_run.cost import measure_own
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.step import META, meta_teacher_of, simulate_distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.settings import DistillRun

RESULTS = Path(__file__).parent / "results" / "scaling.json"
STRATEGIES = ("none", "full", "hybrid")
SCALINGS = ("weak", "strong")
WARM_UP = 3
"""Steps before the measured ones."""
MIB = 1 << 20


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--steps", type=int, default=20, help="measured steps (default: 20)")
    parser.add_argument("--cpu", type=int, metavar="N", help="use up to N processes on the CPU")
    parser.add_argument("--make", type=Path, help="make the steps of one measurement, for this file")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, own = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if options.make is not None:
        make_steps(options.config, own, options.steps, options.make)
        return
    devices = options.cpu or torch.cuda.device_count()
    if devices < 2:
        raise SystemExit(f"scaling was not run: it takes two GPUs, and there are {devices}; --cpu N tries it")
    place = "cpu" if options.cpu else "cuda"
    results: dict[str, Any] = {
        "conditions": {"machine": machine(), "commit": commit(), "config": options.config, "device": place}
    }
    for scaling, strategy, processes in measurements(devices):
        name = f"{scaling}, {strategy}, {processes}"
        overrides = [*own, f"--device={place}"]
        results[name] = measure(options.config, overrides, scaling, strategy, processes, options.steps)
        print(name, json.dumps(results[name]), flush=True)
        write_json(options.out, results)


def measurements(devices: int) -> Iterator[tuple[str, str, int]]:
    """Yield scaling, strategy and number of processes of each measurement."""
    counts = [2**power for power in range(devices.bit_length()) if 2**power <= devices]
    for scaling in SCALINGS:
        for strategy in STRATEGIES:
            for processes in counts:
                smallest = {"none": 1, "full": 2, "hybrid": 4}[strategy]
                if processes >= smallest:
                    yield scaling, strategy, processes


def measure(
    file: str, overrides: list[str], scaling: str, strategy: str, processes: int, steps: int
) -> dict[str, Any]:
    """Make the steps of one measurement in processes of their own, and return what was measured."""
    batch = _read(file, overrides).batch_size * (processes if scaling == "weak" else 1)
    settings = [*overrides, f"--batch_size={batch}", f"--sharding.strategy={strategy}"]
    if strategy == "hybrid":
        settings.append(f"--sharding.group_size={processes // 2}")
    traffic = sent_bytes(_read(file, settings), processes)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        words = [__file__, file, f"--steps={steps}", f"--make={found}", "--", *settings]
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return {"failed": done.stderr[-500:]}
        return {**read_mapping(found), "sent_mib": {name: size / MIB for name, size in traffic.items()}}


def sent_bytes(config: DistillRun, processes: int) -> dict[str, float]:
    """Return the bytes that one process sends in a step, by kind, as the dry run counts them."""
    if processes == 1:
        return {}
    plan = Plan.of(config, processes)
    own = plan.of_one_process(config)
    step = simulate_distillation(own, meta_teacher_of(own), META, plan)
    return measure_own(step, own).traffic._asdict()


def make_steps(file: str, overrides: list[str], steps: int, out: Path) -> None:
    """Make steps in this process and those beside it; the first writes the speed and everyone's memory."""
    config = _read(file, overrides)
    processes = build_processes(config)
    task = Distillation(config, processes, Clock(processes.device))
    task.start(0)
    for step in range(WARM_UP):
        task.update(step, detailed=False)
    began = _now(processes.device)
    for step in range(WARM_UP, WARM_UP + steps):
        task.update(step, detailed=False)
    seconds = max(processes.gather_objects(_now(processes.device) - began))
    memory = processes.gather_objects(_peak_memory(processes.device))
    if processes.is_main:
        write_json(
            out,
            {
                "images_per_second": steps * config.batch_size / seconds,
                "seconds_per_step": seconds / steps,
                "memory_mib": [size / MIB for size in memory],
            },
        )
    processes.wait()
    processes.part()


def _read(file: str, overrides: list[str]) -> DistillRun:
    config = read_config(Path(file), overrides)
    if not isinstance(config, DistillRun):
        raise UserError(f"{file}: trains a teacher; expected a distillation")
    return config


def _now(device: torch.device) -> float:
    """Return the time when the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(sys.argv[1:])
