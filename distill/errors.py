"""Errors that are the user's to mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what was expected."""


class TrainingError(Exception):
    """Training cannot go on: a loss or a gradient is not finite. The message is one line."""


@contextmanager
def reading(source: object) -> Iterator[None]:
    """Around code that reads data of others: what wrong types and missing entries raise becomes a UserError that names the source."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"has no {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: {reason}") from error


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the option nearest to `name`, or the list of options where none is near."""
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; expected one of: {', '.join(options)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no more memory. Torch's are known by name: this must not import it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"OutOfMemoryError", "MemoryError"}:
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "not enough memory" in str(error))


def run_command(main: Callable[[list[str]], int | None], on_shortage: str = "lower micro_batch_size") -> NoReturn:
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
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            raise UserError(f"'{unknown[0]}': unknown argument{did_you_mean(unknown[0], flags)}")
        for name, value in vars(options).items():
            if isinstance(value, Path):  # a shell leaves the ~ of --flag=~/x as it is
                setattr(options, name, value.expanduser())
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


MOST = 2**62
"""What a number on a command line stays below: a seed and the count of images that follow it fit in 64 bits together."""


def at_least(options: argparse.Namespace, **least: int) -> None:
    """Raises UserError, naming the flag, where a number is too small, or larger than any seed or count."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not bound <= value < MOST:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {bound}{' and less than 2^62' if value >= MOST else ''}")
