"""Files of JSON lines that survive a kill: every line has a checksum, and damaged lines are left out."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def read_checked_lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Read the lines of all files of a folder, sorted by file; count those that are unfinished or damaged."""
    entries: list[dict[str, Any]] = []
    damaged = 0
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            if not line:
                continue
            entry = _parse_line(line)
            if entry is None:
                damaged += 1
            else:
                entries.append(entry)
    return entries, damaged


def _parse_line(line: str) -> dict[str, Any] | None:
    """Return the content of a line, or None if it is not what was written."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.pop("check", None) != _checksum(entry):
        return None
    return entry


def _checksum(entry: dict[str, Any]) -> str:
    """Compute the checksum of a line's content."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


class CheckedLines:
    """A file of JSON lines to append to, even if an earlier process left an unfinished line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> CheckedLines:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = self.path.open("ab+")
        if self.handle.tell() > 0:
            self.handle.seek(-1, os.SEEK_END)
            if self.handle.read(1) != b"\n":
                self.handle.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry with its checksum; it is in the file when this returns."""
        self.handle.write(json.dumps({**entry, "check": _checksum(entry)}).encode() + b"\n")
        self.handle.flush()
