"""Command lines whose complaints are one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from distill.config.errors import TrainingError, UserError, did_you_mean, is_out_of_memory


def run_command(
    main: Callable[[list[str]], int | None], on_shortage: str = "lower micro_batch_size"
) -> NoReturn:
    """Run a command line's `main(arguments)`; a `UserError` ends it with one line on stderr and exit code 2, a `TrainingError` and a lack of
    memory, for which `on_shortage` says what to do, with exit code 1."""
    try:
        code = main(sys.argv[1:])
    except (UserError, TrainingError) as error:
        _complain(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        asked = str(error).split(". ")[0].removesuffix(".") or "the machine has no more"
        _complain(f"out of memory ({asked}); {on_shortage}")
        sys.exit(1)
    sys.exit(code or 0)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose complaints are `UserError`s that name the nearest right flag."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(name, description=description, allow_abbrev=False)

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [
                flag for action in self._actions for flag in action.option_strings if flag.startswith("--")
            ]
            raise UserError(f"'{unknown[0]}': unknown argument{did_you_mean(unknown[0], flags)}")
        for name, value in vars(options).items():
            if isinstance(value, Path):  # a shell leaves the ~ of --flag=~/x as it is
                setattr(options, name, value.expanduser())
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


MAX_NUMBER = 2**62
"""What a number on a command line stays below: a seed and the count of images that follow it fit in 64 bits together."""


def at_least(options: argparse.Namespace, **least: int) -> None:
    """Raises UserError, naming the flag, where a number is too small, or larger than any seed or count."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not bound <= value < MAX_NUMBER:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: expected at least {bound}{' and less than 2^62' if value >= MAX_NUMBER else ''}"
            )
