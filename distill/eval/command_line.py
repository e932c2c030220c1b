"""Flags that several commands of `python -m eval` share.

Nothing here imports torch, so that a wrong flag is reported at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError

NETWORKS = ("run", "teacher", "pipeline")
SUBJECTS = (*NETWORKS, "images", "array")
"""Flags that say what is measured. A command may have only some of them."""


def add_pipeline(parser: ArgumentParser) -> None:
    """Add `--pipeline`."""
    parser.add_argument(
        "--pipeline",
        metavar="PATH",
        help="diffusers pipeline, by folder or by name on the hub, called as its users call it",
    )


def find_subject(options: argparse.Namespace) -> str:
    """Return the flag that says what is measured; exactly one must be given."""
    known = [name for name in SUBJECTS if name in options]
    given = [f"--{name}" for name in known if getattr(options, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise UserError(f"{found}: expected one of {list_flags(known)}")
    return given[0]


def list_flags(names: Sequence[str]) -> str:
    """Write names as `--a, --b and --c`."""
    *others, last = [f"--{name}" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


def refuse_repeated(paths: Sequence[Path]) -> None:
    """Refuse a list of result files that names one of them twice."""
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: is named twice; expected results of different measurements")
        seen.add(path.resolve())
