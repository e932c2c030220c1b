"""Errors that are the user's to mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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
        reason = (
            f"has no {error}"
            if isinstance(error, KeyError)
            else (str(error).splitlines() or [type(error).__name__])[0]
        )
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
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )
