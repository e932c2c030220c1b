"""Errors that end a program with one line instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what was expected."""


class TrainingError(Exception):
    """Training cannot go on because a number is not finite or memory is short. The message is one line."""


@contextmanager
def reading(source: object) -> Iterator[None]:
    """Turn errors of the block, which reads data that others wrote, into a UserError that names the source.

    It catches the errors that wrong types and missing entries lead to; a lack of memory passes through.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{source}: {first_line(error)}") from error


@contextmanager
def writing_to(place: str) -> Iterator[None]:
    """Turn errors of the file system in the block into a UserError that begins with `place`."""
    try:
        yield
    except OSError as error:  # some of Pillow's have no strerror
        raise UserError(f"{place} cannot be written ({error.strerror or error})") from error


def first_line(error: Exception) -> str:
    """Shorten a library's error to one line for a message."""
    if isinstance(error, KeyError):
        return f"has no {error}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the option nearest to `name`, or list all options if none is near."""
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; expected one of: {', '.join(options)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if a device or the machine ran out of memory.

    Torch's errors are known by the names of their classes, so that torch need not be imported.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"}:
        return True
    if not isinstance(error, RuntimeError):
        return False
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
