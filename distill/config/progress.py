"""Progress of long work on stderr: a bar on a terminal, and a plain line every 30 seconds in a log file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

Item = TypeVar("Item")

INTERVAL = 30.0
"""Seconds between two lines where stderr is no terminal."""
MINUTE, HOUR, DAY = 60, 3600, 86400


class ProgressBar:
    """Shows how much of some work is done, and an estimate of the time that the rest takes.

    `total` is None if it is not known, and `initial` was done before. A `hidden` one shows nothing, as on
    processes that are not the main one. Without `leave` the bar vanishes from the terminal in the end. Lines
    of a log file come from a thread, so that they come during one long piece of work too.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        unit: str = "steps",
        initial: int = 0,
        hidden: bool = False,
        leave: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.initial, self.hidden, self.leave, self.clock = initial, hidden, leave, clock
        self.count = initial
        self.noted = self.activity = ""
        self.start = clock()
        self._bar: Any = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> ProgressBar:
        self.start = self.clock()
        if self.hidden:
            return self
        if is_terminal():
            self._bar = self._terminal_bar()
        else:
            self._thread = threading.Thread(target=self._write_lines, name=self.title, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def update(self, count: int = 1) -> None:
        """Add so much to what is done."""
        self.count += count
        if self._bar is not None:
            self._bar.update(count)

    def note(self, text: str) -> None:
        """Show what is being done, behind the numbers; an empty text shows nothing."""
        self.noted = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def show_activity(self, activity: str) -> None:
        """Show what is done between two units, such as measuring, until it is an empty text again."""
        self.activity = activity
        if self._bar is not None:
            self._bar.set_description_str(f"{self.title}, {activity}" if activity else self.title)

    def expect(self, total: int) -> None:
        """Set the total, where it is known later than the work begins."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def line(self) -> str:
        """Return the plain line of this moment."""
        seconds = self.clock() - self.start
        of_total = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.title}: {self.count:,}{of_total} {self.unit} after {describe_seconds(seconds)}"]
        left = self._seconds_left(seconds)
        if self.activity:
            parts.append(f"now {self.activity}")
        elif left is not None:
            parts.append(f"about {describe_seconds(left)} left")
        said = ", ".join(parts)
        return f"{said}; {self.noted}" if self.noted else said

    def _seconds_left(self, seconds: float) -> float | None:
        """Return the time that the rest takes at the speed so far, None if no speed is known."""
        made = self.count - self.initial
        if self.total is None or made <= 0:
            return None
        return seconds * max(0, self.total - self.count) / made

    def _write_lines(self) -> None:
        while not self._ended.wait(INTERVAL):
            print(self.line(), file=sys.stderr, flush=True)

    def _terminal_bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.total,
            desc=self.title,
            unit=f" {self.unit}",
            initial=self.initial,
            leave=self.leave,
            dynamic_ncols=True,
            mininterval=0.5,
        )


def track(
    items: Sequence[Item], title: str, unit: str = "steps", hidden: bool = False, leave: bool = False
) -> Iterator[Item]:
    """Yield the items, and show the progress through them."""
    with ProgressBar(title, len(items), unit, hidden=hidden, leave=leave) as bar:
        for item in items:
            yield item
            bar.update()


def is_terminal() -> bool:
    """Tell whether somebody watches stderr, which may be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def describe_seconds(seconds: float) -> str:
    """Return a duration with its largest units, such as `45 s`, `12 min`, `3 h 20 min` or `2 d 4 h`."""
    whole = round(seconds)
    if whole < 2 * MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{round(whole / MINUTE)} min"
    large, small, names = (HOUR, MINUTE, ("h", "min")) if whole < DAY else (DAY, HOUR, ("d", "h"))
    count, rest = divmod(round(whole / small), large // small)
    return f"{count} {names[0]} {rest} {names[1]}" if rest else f"{count} {names[0]}"
