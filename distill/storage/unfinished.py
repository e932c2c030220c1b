"""Clean up after processes that were killed while they wrote a file or a folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

from distill.storage.files import host

UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<process>\d+)\.(?P<kind>partial|old)")
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
        name, is_own = _name_and_owner(found)
        if _is_being_written(path, is_own, int(found["process"])):
            continue
        original = path.with_name(name)
        if found["kind"] == "old" and path.is_dir() and not original.exists():
            path.rename(original)
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path)
    return removed


def _name_and_owner(found: re.Match[str]) -> tuple[str, bool]:
    """Return the name of the finished file or folder, and True if a process of this machine wrote it.

    Older versions kept the dots in a host's name. With another machine's, all but its last part counts as the
    file's name.
    """
    stem = f"{found['name']}.{found['host']}"
    dotted = f".{socket.gethostname()}"
    if stem.endswith(dotted):
        return stem.removesuffix(dotted), True
    return found["name"], found["host"] == host()


def _is_being_written(path: Path, is_own: bool, process: int) -> bool:
    if is_own:
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
