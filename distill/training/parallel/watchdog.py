"""End a run of several processes in which one hangs, and say which."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict

from distill.config.command_line import error_line
from distill.training.parallel.board import SECONDS, Board
from distill.training.parallel.processes import Processes

ROOM = Path(__file__).parent
ROOT = ROOM.parents[2]
INTERVAL = 2.0
"""Maximum number of seconds between the notes of a process."""
GRACE = 18.0
"""Seconds that a step may take after SIGTERM before it counts as stuck. torchrun kills after 30."""


class Progress:
    """How far the main thread of a process has come. The trainer reports it, and a watchdog reads it."""

    def __init__(self) -> None:
        self.step = 0
        self.activity: str | None = None
        """What the process does besides steps; None before the first report."""
        self.since = time.monotonic()

    def report(self, step: int, activity: str = "training") -> None:
        """Say that a step is about to begin, or another activity that takes long."""
        self.step, self.activity, self.since = step, activity, time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the last report."""
        return time.monotonic() - self.since


class Note(TypedDict):
    """What a process writes about itself: how many notes it wrote, and how far its main thread has come."""

    number: int
    step: int
    activity: str | None
    idle: float
    place: str | None
    """Where in the source its main thread is; None if it waits for other processes there."""


class Watchdog:
    """A thread that ends its process when the main thread reports nothing for too long.

    A process that waits inside a collective of a device can do nothing itself, not even obey SIGTERM, by
    which torchrun ends it when another process has died. The first whose patience ends reads from the board
    how far all are, and names those that the others wait for.
    """

    def __init__(
        self, processes: Processes, board: Board, progress: Progress, seconds: float, after: Callable[[], str]
    ) -> None:
        self._processes, self._board, self._progress = processes, board, progress
        self._seconds, self._after = seconds, after
        self._interval = min(INTERVAL, max(0.2, seconds / 20))
        self._main_thread = threading.main_thread().ident
        self._is_over = False
        self._number = 0
        self._told: float | None = None
        self._is_killed_soon = "TORCHELASTIC_RUN_ID" in os.environ

    def start(self) -> None:
        """Watch until `stop`. Both are called by the main thread."""
        self._signals, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Waits for the thread: Python aborts if one writes to a store while it ends."""
        self._is_over = True
        signal.set_wakeup_fd(-1)
        os.write(self._wake, b"\0")
        self._thread.join(2 * SECONDS)

    def _watch(self) -> None:
        while not self._is_over:
            # Python's own handlers run in the main thread; the numbers of signals arrive here at once.
            if select.select([self._signals], [], [], self._interval)[0]:
                if signal.SIGTERM in os.read(self._signals, 64):
                    self._told = self._told or time.monotonic()
                continue
            self._board.write(self._processes.index, dict(self._note()))
            reason = self._reason_to_end()
            if reason is not None and not self._is_over:
                self._end(reason)

    def _reason_to_end(self) -> str | None:
        progress = self._progress
        # Building networks and drawing samples of the teacher may take any time.
        if progress.activity is not None and progress.idle > self._seconds:
            return "process_timeout"
        told = self._told
        if not self._is_killed_soon or told is None or progress.activity != "training":
            return None
        return "SIGTERM came meanwhile" if progress.since < told < time.monotonic() - GRACE else None

    def _note(self) -> Note:
        self._number += 1
        progress = self._progress
        return {
            "number": self._number,
            "step": progress.step,
            "activity": progress.activity,
            "idle": round(progress.idle, 1),
            "place": place_of(sys._current_frames().get(self._main_thread or 0)),
        }

    def _end(self, reason: str) -> None:
        """End the process, after the one that speaks for all has spoken."""
        wait = 3 * self._interval + 1.0
        if self._board.speaks_first():
            earlier = self._board.read()
            time.sleep(wait)  # those that live write meanwhile
            notes = self._board.read()
            own = self._processes.index
            notes[own] = dict(self._note())
            silent = [at for at, note in enumerate(notes) if note is None or note == earlier[at]]
            waited = f"{self._progress.idle:.0f} s ({reason})"
            stuck = describe_stuck(notes, silent, waited)
            # The main thread may hold the lock of sys.stderr.
            os.write(2, f"\n{error_line(f'{stuck}; {self._after()}')}\n".encode())
        else:
            end = time.monotonic() + 2 * wait
            while time.monotonic() < end:
                self._board.write(self._processes.index, dict(self._note()))
                time.sleep(self._interval)
        os._exit(1)


def describe_stuck(notes: Sequence[Mapping[str, Any] | None], silent: Sequence[int], waited: str) -> str:
    """Say which processes the others wait for: those that are silent, those behind, or those that compute."""
    count = len(notes)
    known = {at: note for at, note in enumerate(notes) if note is not None}
    while_others = f"the others waited {waited}"
    if silent:
        last = max((known[at]["step"] for at in silent if at in known), default=0)
        return f"{_names(silent, count)} answered no more after step {last}; {while_others}"
    first = min(note["step"] for note in known.values())
    behind = [at for at, note in known.items() if note["step"] == first]
    if len(behind) == count:
        behind = [at for at, note in known.items() if note["place"] is not None]
    if len(behind) in (0, count):
        return f"all {count} processes stood still after step {first}{_doing(known[0])} for {waited}"
    note = known[behind[0]]
    place = f", in {note['place']}" if note["place"] else ""
    stood = f"stood still after step {first}{_doing(note)} for {note['idle']:.0f} s{place}"
    return f"{_names(behind, count)} {stood}; {while_others}"


def _doing(note: Mapping[str, Any]) -> str:
    activity = note["activity"]
    if activity is None:
        return " (not training yet)"
    return "" if activity == "training" else f" ({activity})"


def _names(numbers: Sequence[int], count: int) -> str:
    """Return `process 1 of 8`, or `processes 1, 4-7 of 8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"process{'es' * (len(numbers) > 1)} {', '.join(parts)} of {count}"


def place_of(frame: FrameType | None) -> str | None:
    """Return the file and line of this program in which a thread is; None if it waits for other processes.

    All that waits for them stands in this room or in torch's.
    """
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if "torch/distributed/" in file.as_posix() or file.parent == ROOM:
            return None
        if file.is_relative_to(ROOT / "distill") or file.is_relative_to(ROOT / "eval"):
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return None
