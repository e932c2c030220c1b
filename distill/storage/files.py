"""Files that are whole or absent: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError

if TYPE_CHECKING:
    pass


def _beside(path: Path, kind: str) -> Path:
    """The place beside `path` where this process writes (`partial`), or puts away what stood there (`old`)."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def _real(path: Path) -> Path:
    """Where a path leads: a link stays one, and what it leads to is replaced."""
    return Path(os.path.realpath(path))


def check_new_folder(path: Path, flag: str) -> None:
    """Raises UserError where `new_folder` could not take this place, before hours are spent on its content."""
    real = _real(path)
    if real in (Path.cwd(), *Path.cwd().parents):
        raise UserError(
            f"{flag} {path}: is the folder that this runs in; expected another, which can be replaced as a whole"
        )
    there = next(above for above in real.parents if above.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: cannot be made in {there}")


UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>partial|old)")
ABANDONED = 3600.0
"""Seconds after whose last change a file of another machine's process counts as left behind."""


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what processes that are no more left unfinished in a folder and in those below it; returns what was removed.

    A folder that was put away, and whose successor never took its name, takes its name back. A process on another machine counts as gone when it
    has written nothing for an hour.
    """
    removed = []
    for path in sorted(folder.rglob(".*")):
        found = UNFINISHED.fullmatch(path.name)
        if (
            found is None
            or not path.exists()
            or _is_being_written(path, found["name"], int(found["process"]))
        ):
            continue
        name = found["name"].removesuffix(f".{socket.gethostname()}")
        if found["kind"] == "old" and path.is_dir() and not path.with_name(name).exists():
            path.rename(path.with_name(name))
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        removed.append(path)
    return removed


def _is_being_written(path: Path, name: str, process: int) -> bool:
    if name.endswith(f".{socket.gethostname()}"):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    files = [path, *path.rglob("*")]
    return time.time() - max(file.stat().st_mtime for file in files) < ABANDONED


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the name `path` only when the block ends well; what stood there before goes then."""
    path = _real(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one stroke."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping. Raises UserError where it is missing, broken or holds something else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` only when the block ends well; what stood there before goes then."""
    path = _real(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for file in (path for path in partial.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if path.exists():
        old = _beside(path, "old")
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)
