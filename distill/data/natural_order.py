"""Sort file names as people number them: `2.png` before `10.png`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

NUMBER = re.compile("([0-9]+)")


def natural_key(name: str) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return the key to sort file names by: folder by folder, digits as numbers, endings last.

    Use it if files are paired with something by their order. Names that differ only in leading zeros are
    sorted as strings.
    """
    path = PurePosixPath(name)
    return tuple(_parts(folder) for folder in (*path.parts[:-1], path.stem)), name


def _parts(name: str) -> tuple[str | int, ...]:
    """Split a name into text and numbers in turn, beginning with text."""
    return tuple(int(part) if index % 2 else part for index, part in enumerate(NUMBER.split(name)))


def parts_of(name: str) -> list[str | int]:
    """Return the texts and numbers in a file's path without its ending, from left to right."""
    return list(_parts(str(PurePosixPath(name).with_suffix(""))))
