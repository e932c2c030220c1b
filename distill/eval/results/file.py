"""Files of results: checked before hours are spent on them, written as a whole, and read back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distill.config.errors import UserError, writing_to
from distill.storage.files import read_json, write_json


class Part(BaseModel):
    """A part of results that must be there, with these types; further keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


def check_writable(folder: Path) -> None:
    """Refuse a folder of results that cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder}: cannot be written to")


def check_out(path: Path) -> None:
    """Refuse a file of results that cannot be written."""
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; expected a file to write")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: {path.parent} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path}: cannot be written to")


def write_results(path: Path, results: Mapping[str, object]) -> None:
    """Write results as JSON."""
    with writing_to(f"{path}:"):
        write_json(path, results)


def read_results_of(command: str, path: Path, format: str, parts: type[Part]) -> tuple[dict[str, Any], Any]:
    """Read what `python -m eval <command>` wrote: all of it, and the parts that are checked, as `parts`.

    The error for another file names the first part that does not fit.
    """
    results = read_json(path)
    expected = f"expected what python -m eval {command} writes"
    if not isinstance(results, dict) or results.get("format") != format:
        raise UserError(f"{path}: is not of the format '{format}'; {expected}")
    try:
        return results, parts.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = f"has no {place}" if first["type"] == "missing" else f"{place} is {shortened(first['input'])}"
        raise UserError(f"{path}: {found}; {expected}") from error


def shortened(value: Any) -> str:
    """Write a value on one line, cut to 70 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 70 else f"{text[:67]}..."
