"""End all processes of a run in one line when one of them fails, dies or hangs."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distill.config.command_line import error_line
from distill.config.errors import TrainingError, UserError
from distill.networks.folder import newest_checkpoint
from distill.training.checkpoints.continuation import same_command
from distill.training.parallel.board import Board
from distill.training.parallel.processes import Processes
from distill.training.parallel.watchdog import Progress, Watchdog
from distill.training.settings import RunSettings

DIED = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Socket closed",
    "remote process exited",
)
"""Words of gloo, of NCCL and of torch's store for another process that is gone."""
SILENT = (
    "Timed out waiting",
    "Application timeout caused pair closure",
    "wait timeout after",
    "Timed out after",
)
"""Words for another process that does not answer."""


def lost_processes(error: BaseException, seconds: float) -> str | None:
    """Say what became of the other processes if an error of communication tells it, None for another error.

    `seconds` is the time that processes wait for each other.
    """
    from torch import distributed

    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    for words in DIED:
        if words in text:
            return f"another process died ({words})"
    for words in SILENT:
        if words in text:
            return f"another process did not answer for {seconds:g} s ({words})"
    if isinstance(error, distributed.DistError):
        return f"the processes cannot communicate ({(text.strip() or type(error).__name__).splitlines()[-1]})"
    return None


def group_timeout(seconds: float) -> datetime.timedelta:
    """Return the time after which torch gives up a collective: later than the watchdog, which says more."""
    return datetime.timedelta(seconds=1.2 * seconds + 60.0)


@contextmanager
def joining(config: RunSettings) -> Iterator[None]:
    """Turn the errors of a block in which processes find each other into one line."""
    try:
        yield
    except RuntimeError as error:
        lost = lost_processes(error, group_timeout(config.process_timeout).total_seconds())
        if lost is None:
            raise
        raise TrainingError(f"{lost}; nothing was trained yet") from error


def how_to_continue(config: RunSettings) -> str:
    """Say which command continues, and from where."""
    newest = newest_checkpoint(config.run_dir)
    if newest is None:
        return "there is no checkpoint yet, and the same command starts anew"
    return f"{same_command(config)} continues from {newest.relative_to(config.run_dir)}"


@contextmanager
def ending_together(processes: Processes, config: RunSettings) -> Iterator[Progress]:
    """Yield the progress to report while a run works; one process alone has nobody to wait for it.

    An error within the block is reported in one line by one process, and all end. A process that hangs ends
    all after `process_timeout`.
    """
    progress = Progress()
    if processes.count == 1:
        yield progress
        return
    board = Board(processes)

    def after() -> str:
        return how_to_continue(config)

    watchdog = Watchdog(processes, board, progress, config.process_timeout, after)
    watchdog.start()
    try:
        yield progress
    except (UserError, TrainingError) as error:
        _report(str(error), processes, board)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from error
    except RuntimeError as error:
        lost = lost_processes(error, group_timeout(config.process_timeout).total_seconds())
        if lost is None:
            board.speaks_first()  # this traceback says why
            raise
        if board.speaks_first():
            message = f"process {processes.index} of {processes.count}: {lost}; {after()}"
            _say(error_line(message), processes)
        leave(1)
    except BaseException:
        board.speaks_first()
        raise
    finally:
        watchdog.stop()


def _report(message: str, processes: Processes, board: Board) -> None:
    """Report an error that other processes may share; the first process is preferred."""
    if not processes.is_main:
        time.sleep(1.0)
    if board.speaks_first():
        _say(error_line(message, processes.index, processes.count), processes)
    else:
        time.sleep(1.0)  # a launcher ends the process that speaks when the first one has ended


def _say(line: str, processes: Processes) -> None:
    """Print a line on stderr; the bar of the main process may stand there."""
    print(line if processes.is_main else f"\n{line}", file=sys.stderr, flush=True)


def leave(code: int) -> None:
    """End the process at once: what communicates in its background may wait for ever, or abort Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
