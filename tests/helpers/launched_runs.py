"""Runs of several processes that tests signal while they train."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.runs import ENVIRONMENT, read_lines, train_command


@contextmanager
def launched(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a launcher that has started; it and its processes end with the block."""
    launcher = subprocess.Popen(
        command,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield launcher
    finally:
        for process in (*workers(launcher).values(), launcher.pid):
            if launcher.poll() is None:
                os.kill(process, 9)
        launcher.communicate()


@contextmanager
def training(file: Path, *overrides: str, processes: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Yield the launcher of a run that has logged its second step."""
    run = file.parent / "run"
    with launched(train_command(file, *overrides, processes=processes)) as launcher:
        end = time.monotonic() + 240
        while not ((run / "stats.jsonl").is_file() and len(read_lines(run)) > 1):
            if launcher.poll() is not None or time.monotonic() > end:
                raise AssertionError(launcher.communicate()[1])
            time.sleep(0.05)
        yield launcher


def workers(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Return the process identifiers of a launcher's processes by their numbers in the run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) != launcher.pid or status[0] == "Z":
                continue
            environment = (folder / "environ").read_text().split("\0")
        except OSError:  # it has ended meanwhile
            continue
        numbers = [entry.removeprefix("RANK=") for entry in environment if entry.startswith("RANK=")]
        if numbers:
            found[int(numbers[0])] = int(folder.name)
    return found


def error_lines(output: str) -> list[str]:
    """Return the lines of an output that report errors of the run, not of the launcher."""
    return [line for line in output.splitlines() if line.startswith("error: ")]
