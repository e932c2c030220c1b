"""Arguments that the commands which train on captioned images share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from distill.config.command_line import at_least
from distill.config.errors import UserError
from distill.storage.files import check_new_folder


def add_files(parser: argparse.ArgumentParser, content: str) -> None:
    """Add the data and the folder to write; `content` says what the folder is for."""
    parser.add_argument(
        "data",
        help="captioned images, as under `data` in a run's configuration: "
        "'{name: emoji, condition: captions}'",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"a new folder for {content}")


def add_numbers(parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int, str]]) -> None:
    """Add whole numbers by their flags, each with its default and its help."""
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: %(default)s)")


def check(options: argparse.Namespace, **minimum: int) -> None:
    """Check whole numbers against their minima, the learning rate, and that the folder can be written."""
    at_least(options, steps=1, seed=0, batch_size=2, **minimum)
    if not 0 < options.learning_rate < 1:
        raise UserError(f"--learning-rate {options.learning_rate}: expected a number in (0, 1)")
    if options.out.exists():
        raise UserError(f"--out {options.out}: exists; expected a new folder")
    check_new_folder(options.out, "--out")
