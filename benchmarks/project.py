"""Folders of the project, the scripts' command lines, and Python processes that the scripts start."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs"
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (0, 1, 2)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the description, a script's docstring, with its own line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_seeds_and_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the two flags of scripts that train several students."""
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the students (default: 0 1 2)"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of processes at a time, one thread each (default: 2)"
    )


def run_python(*words: str, threads: int | None = None) -> str:
    """Run Python with these arguments in the project's folder; return what it prints to standard output.

    `threads` sets the number of threads; None leaves the choice to the environment. If the process fails,
    the script ends with the command and the end of the process's error output.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")
    return done.stdout
