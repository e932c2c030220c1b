"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def align(cells: Sequence[Sequence[str]]) -> list[str]:
    """Write rows of cells as lines, the first column aligned to the left, the others to the right."""
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    lines = []
    for first, *others in cells:
        line = first.ljust(widths[0])
        for cell, width in zip(others, widths[1:], strict=True):
            line += f"  {cell:>{width}}"
        lines.append(line.rstrip())
    return lines
