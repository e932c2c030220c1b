"""Clean up after processes that were killed while they wrote a file or a folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>partial|old)")
"""Names that `distill.storage.files.temporary_path` gives."""
ABANDONED = 3600.0
"""Seconds without a change after which a file of another machine's process counts as left behind."""


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what dead processes left unfinished in a folder and in those below it; return the removed paths.

    An old folder that was moved away, and whose successor was never moved into its place, gets its name back.
    A process on another machine counts as dead when it has written nothing for an hour.
    """
    removed = []
    for path in sorted(folder.rglob(".*")):
        found = UNFINISHED.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        if _is_being_written(path, found["name"], int(found["process"])):
            continue
        original = path.with_name(found["name"].removesuffix(f".{socket.gethostname()}"))
        if found["kind"] == "old" and path.is_dir() and not original.exists():
            path.rename(original)
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path)
    return removed


def _is_being_written(path: Path, name: str, process: int) -> bool:
    if name.endswith(f".{socket.gethostname()}"):
        return _is_running(process)
    last_change = max(file.stat().st_mtime for file in [path, *path.rglob("*")])
    return time.time() - last_change < ABANDONED


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs under another user
        return True
    return True
