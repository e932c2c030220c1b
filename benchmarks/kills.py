"""Kill runs by SIGKILL at random moments, start them again, and compare what they end with.

A run of one process, one of two, and one that is sharded over two take turns. Each is killed after a random
time, all of its processes at once or one of them, and continued by the same command, until it is finished.
Then its weights, optimiser states and statistics must be those of the run that was never killed, to the bit.
It begins anew until it has been killed often enough. The results become benchmarks/results/kills.json, or the
file that `--out` names.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

sys.path.append(str(Path(__file__).parents[1]))

import torch

from benchmarks.project import ROOT, argument_parser
from distill.networks.folder import checkpoints
from distill.storage.files import write_json, write_text
from distill.storage.provenance import commit, machine
from distill.storage.tensors import load_tensors

RESULTS = Path(__file__).parent / "results" / "kills.json"
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one process": (1, ()),
    "two processes": (2, ()),
    "sharded over two processes": (2, ("--sharding.strategy=full",)),
}
"""Processes and settings of each kind of run."""
STEPS = 16
TEACHER = ROOT / "assets" / "digits-teacher"
RUN = """
task: distill
run_dir: unset
teacher: {{name: native, path: {teacher}}}
data: {{name: digits}}
steps: {steps}
batch_size: 4
device: cpu
log_every: 1
checkpoint_every: 2
sample_every: 8
monitor_every: 8
monitor_images: 16
objective: {{name: distribution_matching, divergence: jensen_shannon}}
discriminator: {{depths: [bottleneck], width: 8}}
ratio: {{}}
terms: [{{name: gan, weight: 0.1}}]
"""
CHANGING = ("seconds", "time/")
"""Beginnings of the names of statistics that differ from run to run."""
PATIENCE = 300.0
"""Seconds after which a run that is not killed counts as hung."""


class Outcome(TypedDict):
    """What happened to the runs of one kind."""

    kills: int
    kills_of_one_process: int
    """Kills after which the other processes had to end by themselves."""
    kills_while_saving: int
    """Kills that left an unfinished folder."""
    finished: int
    """Runs that were finished and compared."""
    different: list[str]
    """What differed from the run without a kill."""


class Run:
    """A run in a folder of its own, with the command that starts and continues it."""

    def __init__(self, file: Path, folder: Path, processes: int, overrides: Sequence[str]) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        program = [*(launcher if processes > 1 else []), str(ROOT / "train.py"), str(file)]
        self.command = [sys.executable, *program, f"--run_dir={folder}", *overrides]
        self.folder, self.processes = folder, processes

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            self.command,
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self) -> float:
        """Run it to its end, and return the seconds that it took."""
        began = time.monotonic()
        process = self.start()
        _, errors = process.communicate(timeout=PATIENCE)
        if process.returncode != 0:
            raise SystemExit(f"a run failed with exit code {process.returncode}:\n{errors.decode()[-3000:]}")
        return time.monotonic() - began

    def is_finished_before(self, seconds: float, kills_one: bool) -> bool:
        """Start or continue it, and kill it after a time; returns whether it was finished before."""
        process = self.start()
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._kill(process, kills_one)
            return False
        if process.returncode != 0:
            raise SystemExit(f"a run failed with exit code {process.returncode}:\n{errors.decode()[-3000:]}")
        return True

    def _kill(self, process: subprocess.Popen[bytes], kills_one: bool) -> None:
        """Kill one worker, whose launcher ends the others, or everything at once."""
        workers = _children(process.pid)
        killed = [random.choice(workers)] if kills_one and workers else [*workers, process.pid]
        for each in killed:
            os.kill(each, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as root:
        study = Study(Path(root))
        results: dict[str, Any] = {"conditions": {"machine": machine(), "commit": commit(), "steps": STEPS}}
        for kind in study.kill_in_turn(options.kills):
            results[kind] = study.outcomes[kind]
            write_json(options.out, results)
            print(kind, json.dumps(study.outcomes[kind]), flush=True)
    if any(outcome["different"] for outcome in study.outcomes.values()):
        raise SystemExit("a continued run differs from one that was never killed")


class Study:
    """Runs of each kind that were never killed, and what happened to those that were."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "run.yaml"
        write_text(self.file, RUN.format(teacher=TEACHER, steps=STEPS))
        self.expected: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        for kind, (processes, overrides) in KINDS.items():
            run = Run(self.file, root / f"whole {kind}", processes, overrides)
            self.seconds[kind] = run.finish()
            self.expected[kind] = run.folder
            self.outcomes[kind] = Outcome(
                kills=0, kills_of_one_process=0, kills_while_saving=0, finished=0, different=[]
            )

    def kill_in_turn(self, kills: int) -> Any:
        """Kill runs of the kinds in turn, and yield the kind of each run when it is finished."""
        kinds = list(KINDS)
        turn = 0
        while sum(outcome["kills"] for outcome in self.outcomes.values()) < kills:
            kind = kinds[turn % len(kinds)]
            turn += 1
            self.kill_until_finished(kind)
            yield kind

    def kill_until_finished(self, kind: str) -> None:
        """Kill one run of this kind at random moments until it is finished, and compare it."""
        processes, overrides = KINDS[kind]
        outcome, folder = self.outcomes[kind], self.root / f"killed {kind}"
        shutil.rmtree(folder, ignore_errors=True)
        run = Run(self.file, folder, processes, overrides)
        kills_one = processes > 1 and random.random() < 0.5
        while not run.is_finished_before(random.uniform(0, 0.9 * self.seconds[kind]), kills_one):
            outcome["kills"] += 1
            outcome["kills_of_one_process"] += kills_one
            outcome["kills_while_saving"] += bool(list((folder / "checkpoints").glob(".*.partial")))
            kills_one = processes > 1 and random.random() < 0.5
        outcome["finished"] += 1
        outcome["different"] += differences(self.expected[kind], folder)


def differences(expected: Path, found: Path) -> list[str]:
    """Name what two finished runs differ in, apart from times."""
    different = []
    there, here = checkpoints(expected)[-1], checkpoints(found)[-1]
    if there.name != here.name:
        return [f"the last checkpoint: {here.name}"]
    for file in sorted(there.glob("*.safetensors")):
        weights, others = load_tensors(file), load_tensors(here / file.name)
        equal = weights.keys() == others.keys() and all(
            torch.equal(value, others[name]) for name, value in weights.items()
        )
        if not equal:
            different.append(file.name)
    if _statistics(expected) != _statistics(found):
        different.append("stats.jsonl")
    if (expected / "export" / "model.safetensors").read_bytes() != (
        found / "export" / "model.safetensors"
    ).read_bytes():
        different.append("the export")
    return different


def _statistics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's statistics without times."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(CHANGING)} for line in lines]


def _children(parent: int) -> list[int]:
    """Return the processes that a process started, as Linux lists them."""
    file = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in file.read_text().split()] if file.is_file() else []


if __name__ == "__main__":
    main(sys.argv[1:])
