"""Command lines that report errors in one line."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from distill.config.errors import TrainingError, UserError, did_you_mean, is_out_of_memory

MAX_NUMBER = 2**62
"""Upper limit of numbers on a command line, so that a seed plus a count of images fits in 64 bits."""
PATIENCE = 10.0
"""Seconds for which a process other than the first waits before it reports its error."""
PROGRAM = "distill"
"""Name of the console script."""
FORMS = {
    "python train.py": "train",
    "python sample.py": "sample",
    "python -m eval": "eval",
    "python -m distill": "",
}
"""Commands of a checkout, by which help and messages name them, and their names in the console script."""
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""What pip installs for imports of another name."""


def run_command(
    main: Callable[[list[str]], int | None],
    on_shortage: str = "lower micro_batch_size",
    in_one_process: bool = False,
) -> NoReturn:
    """Run `main(arguments)` of a command and exit with the code that it returns.

    With `in_one_process` the command is refused if a launcher started several.

    A `UserError` ends the command with one line on stderr and exit code 2, and so does a package that is not
    installed. A `TrainingError` ends it with exit code 1, and so does a lack of memory, for which
    `on_shortage` says what to do. If the reader of stdout stops early, as `head` does, the command ends
    without a message and with exit code 141, as a program that SIGPIPE ends.
    """
    try:
        code = _run(_in_one_process(main) if in_one_process else main, on_shortage)
        if sys.stdout is not None:  # as it is where the command was started with stdout closed
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_stdout_broken():
            raise
        _discard_stdout()
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _run(main: Callable[[list[str]], int | None], on_shortage: str) -> int | str | None:
    """Run a command, report its errors, and return its exit code."""
    try:
        return main(sys.argv[1:])
    except SystemExit as ended:  # `argparse` raises it after --help
        return ended.code
    except UserError as error:
        _report(str(error))
        return 2
    except TrainingError as error:
        _report(str(error))
        return 1
    except ModuleNotFoundError as error:
        package = _absent_package(error)
        if package is None:
            raise
        _report(f"{package} is not installed: pip install {DISTRIBUTIONS.get(package, package)}")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        asked = str(error).split(". ")[0].removesuffix(".") or "the machine has no more"
        _report(f"out of memory ({asked}); {on_shortage}")
        return 1


def _absent_package(error: ModuleNotFoundError) -> str | None:
    """Return the package that is not installed, None if a module of an installed one was not found."""
    package = (error.name or "").partition(".")[0]
    is_absent = package not in ("", PROGRAM) and importlib.util.find_spec(package) is None
    return package if is_absent else None


def as_called(text: str) -> str:
    """Name the commands in a text as this process was called.

    `python train.py` becomes `distill train` in the console script, `python -m distill train` in the package.
    """
    program = _program()
    if program is not None:
        for form, command in FORMS.items():
            text = text.replace(form, f"{program} {command}".rstrip())
    return text


def _program() -> str | None:
    """Return how this process was called, None if it is none of the package's two ways to all commands."""
    script = Path(sys.argv[0])
    if script.name.removesuffix(".exe") == PROGRAM:
        return PROGRAM
    return f"python -m {PROGRAM}" if script.parts[-2:] == (PROGRAM, "__main__.py") else None


def words_after_python() -> list[str]:
    """Return the words after `python`, or a launcher, that repeat this process's command."""
    if _program() is None:
        return sys.argv
    return ["-m", PROGRAM, *sys.argv[1:]]


def process_number() -> int:
    """Return the number of this process among those that a launcher started, from 0."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def process_count() -> int:
    """Return the number of processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def error_line(message: str, process: int = 0, count: int = 1) -> str:
    """Return the line that reports an error, with the number of the process unless it is the first."""
    where = f"process {process} of {count}: " if process > 0 else ""
    return f"error: {where}{' '.join(message.split())}"


def _report(message: str) -> None:
    """Print an error in one line on stderr.

    Processes that read the same input fail alike. The first reports it; the others wait, so that the launcher
    ends them before they repeat it.
    """
    process, count = process_number(), process_count()
    if process > 0:
        is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
        time.sleep(PATIENCE if is_first_here else 1.2 * PATIENCE)
    print(error_line(as_called(message), process, count), file=sys.stderr)


def refuse_several_processes() -> None:
    """Refuse the command if a launcher started several processes."""
    count = process_count()
    if count > 1:
        command = shlex.join(sys.orig_argv)
        raise UserError(f"{count} processes were started, and this command runs in one; expected {command}")


def _in_one_process(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], int | None]:
    """Return the command, refused if a launcher started several processes."""

    def guarded(arguments: list[str]) -> int | None:
        refuse_several_processes()
        return main(arguments)

    return guarded


def _is_stdout_broken() -> bool:
    """Return True if nobody reads stdout any more; a broken pipe may also be another one, as a tracker's."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _discard_stdout() -> None:
    """Discard the rest of stdout, so that Python writes its buffer without an error as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse` parser that raises `UserError`s, which name the nearest right flag."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(as_called(name), description=description, allow_abbrev=False)

    def format_help(self) -> str:
        return as_called(super().format_help())

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            raise UserError(f"'{unknown[0]}': unknown argument{did_you_mean(unknown[0], self._flags())}")
        for name, value in vars(options).items():
            if isinstance(value, Path):  # a shell leaves the ~ of --flag=~/x as it is
                setattr(options, name, value.expanduser())
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def _flags(self) -> list[str]:
        flags = [flag for action in self._actions for flag in action.option_strings]
        return [flag for flag in flags if flag.startswith("--")]


def finite(options: argparse.Namespace, *names: str) -> None:
    """Check that the named numbers are finite; None always passes."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} {value}: expected a finite number")


def at_least(options: argparse.Namespace, **minimum: int) -> None:
    """Check that the named numbers are at least their minimum and below `MAX_NUMBER`; None always passes."""
    for name, bound in minimum.items():
        value = getattr(options, name)
        if value is None or bound <= value < MAX_NUMBER:
            continue
        limit = " and less than 2^62" if value >= MAX_NUMBER else ""
        raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {bound}{limit}")
