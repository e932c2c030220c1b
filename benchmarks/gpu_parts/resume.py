"""Resumption: a run that is killed and continued, against the same run without interruption."""

from __future__ import annotations

import itertools
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu_parts.part import Part, Record
from benchmarks.project import ROOT
from distill.networks.folder import checkpoints
from distill.storage.tensors import load_tensors

PRESET = ROOT / "configs" / "digits" / "f_distill.yaml"
STEPS, CHECKPOINT_EVERY = 400, 20
TINY_STEPS = 60
LOOK_EVERY = 0.01
"""Seconds between looks for the first checkpoint."""


def measure_resumption(part: Part) -> None:
    """Record, with and without `deterministic`, how far the weights differ after a kill and a resumption."""
    for is_deterministic in (True,) if part.tiny else (True, False):
        part.write({"deterministic": is_deterministic, **kill_and_resume(part, is_deterministic)})


def kill_and_resume(part: Part, is_deterministic: bool) -> Record:
    """Train a run in one piece and, beside it, one that is killed after a checkpoint and continued."""
    folder = part.folder / ("deterministic" if is_deterministic else "free")
    whole = _start(part, folder / "whole", is_deterministic)
    cut = _start(part, folder / "cut", is_deterministic)
    try:
        while cut.poll() is None and not checkpoints(folder / "cut"):
            time.sleep(LOOK_EVERY)
        cut.send_signal(signal.SIGKILL)
        killed = cut.wait() == -signal.SIGKILL
        killed_after = checkpoints(folder / "cut")[-1].name if checkpoints(folder / "cut") else None
        resumed = _start(part, folder / "cut", is_deterministic)
        codes = [whole.wait(), resumed.wait()]
    finally:
        for process in (whole, cut):
            process.kill()
    found: Record = {"killed": killed, "checkpoint": killed_after, "exit codes": codes}
    if codes != [0, 0]:
        return {**found, "failed": _last_line(folder)}
    return {**found, **_compare(folder / "whole", folder / "cut")}


def _start(part: Part, run_dir: Path, is_deterministic: bool) -> subprocess.Popen[bytes]:
    """Start or continue the run in a process of its own; what it prints goes to a file beside its folder."""
    steps = TINY_STEPS if part.tiny else STEPS
    settings = {
        "run_dir": run_dir,
        "steps": steps,
        "checkpoint_every": CHECKPOINT_EVERY,
        "sample_every": steps,
        "monitor_every": steps,
        "monitor_images": 2,
        "log_every": CHECKPOINT_EVERY,
        "deterministic": str(is_deterministic).lower(),
    }
    if part.tiny:
        settings["batch_size"] = 2
    overrides = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in settings.items())
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_dir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "train.py", str(PRESET), *overrides], cwd=ROOT, stdout=log, stderr=log
        )


def _compare(whole: Path, cut: Path) -> Record:
    """Return whether the exported weights are equal to the bit, and their largest difference."""
    first = load_tensors(whole / "export" / "model.safetensors")
    second = load_tensors(cut / "export" / "model.safetensors")
    differences = [(first[name].double() - second[name].double()).abs().max().item() for name in first]
    return {
        "equal to the bit": all(torch.equal(first[name], second[name]) for name in first),
        "largest difference": max(differences),
        "median difference": statistics.median(differences),
    }


def _last_line(folder: Path) -> str:
    """Return the last line that one of the runs printed."""
    lines = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines() if line]
    return lines[-1][:300] if lines else "nothing was printed"
