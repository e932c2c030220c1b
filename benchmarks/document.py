"""Generated blocks of the documentation, and numbers and tables as Markdown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.storage.files import write_text


@dataclasses.dataclass(frozen=True)
class Block:
    """The text between two markers of a page. A script writes it, so it is not edited by hand."""

    page: Path
    name: str

    @property
    def begin(self) -> str:
        """The marker before the text."""
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        """The marker after the text."""
        return f"<!-- {self.name}: end -->"

    def read(self) -> str:
        """Return the text between the markers."""
        return self._split()[1].strip("\n")

    def write(self, text: str) -> None:
        """Replace the text between the markers."""
        before, _, after = self._split()
        write_text(self.page, f"{before}{self.begin}\n{text}\n{self.end}{after}")

    def _split(self) -> tuple[str, str, str]:
        """Return the page before the markers, between them and after them."""
        page = self.page.read_text(encoding="utf-8")
        before, begin, rest = page.partition(self.begin)
        text, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{self.page}: expected the markers {self.begin} and {self.end}")
        return before, text, after


def mean_and_std(values: Sequence[float], form: str = ".3f") -> str:
    """Return "mean ± sample standard deviation", or the mean of a single value.

    `form` is the format of the mean; the deviation has the same one without a sign.
    """
    mean = f"{statistics.mean(values):{form}}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):{form.lstrip('+')}}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells of text as Markdown."""
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    """Join cells; an empty cell takes a single space."""
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"
