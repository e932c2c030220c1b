"""Write files and folders whole or not at all: under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from distill.config.errors import UserError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file to. It replaces `path` when the block ends without an error."""
    path = _follow_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(path, "partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill. It replaces `path` when the block ends without an error."""
    path = _follow_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(path, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                flush(file)
        _put_in_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _put_in_place(partial: Path, path: Path) -> None:
    """Rename a finished folder to `path`, and remove the one that stood there."""
    if not path.exists():
        partial.rename(path)
        return
    old = temporary_path(path, "old")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def temporary_path(path: Path, kind: Literal["partial", "old"]) -> Path:
    """Return the path beside `path` where this process writes (`partial`) or puts the old content (`old`)."""
    return path.with_name(f".{path.name}.{host()}.{os.getpid()}.{kind}")


def host() -> str:
    """Return this machine's name in temporary names, one part without dots."""
    return socket.gethostname().replace(".", "_")


def _follow_links(path: Path) -> Path:
    """Return the target of a link, so that the target is replaced and the link stays."""
    return Path(os.path.realpath(path))


def flush(file: Path) -> None:
    """Wait until a file's content is on the disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def check_new_folder(path: Path, flag: str) -> None:
    """Check that `new_folder` can write to this path, before hours are spent on the folder's content."""
    real = _follow_links(path)
    if real in (Path.cwd(), *Path.cwd().parents):
        raise UserError(
            f"{flag} {path}: is the folder that this runs in; "
            "expected another, which can be replaced as a whole"
        )
    existing = next(parent for parent in real.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: cannot be made in {existing}")


def write_text(path: Path, text: str) -> None:
    """Replace a file's text, so that a reader sees either the old text or the new."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read the value in a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file; any other value is refused."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content
