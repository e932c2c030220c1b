"""The order in which people number files: `2.png` before `10.png`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

NUMBER = re.compile("([0-9]+)")


def natural_key(name: str) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return the key to sort file names by: folder by folder, digits as the numbers that they are, endings last.

    Use it where files are paired with something by their order. Names that differ by leading zeros alone are in the
    order of strings.
    """
    path = PurePosixPath(name)
    return tuple(_parts(folder) for folder in (*path.parts[:-1], path.stem)), name


def _parts(name: str) -> tuple[str | int, ...]:
    """Text and numbers by turns, text first."""
    return tuple(int(part) if place % 2 else part for place, part in enumerate(NUMBER.split(name)))


def parts_of(name: str) -> list[str | int]:
    """Return the text and the numbers of a file's path without its ending, from left to right."""
    return list(_parts(str(PurePosixPath(name).with_suffix(""))))
