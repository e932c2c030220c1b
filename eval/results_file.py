"""Reading back what commands wrote with `--out`: the parts that a comparison needs must be there, and of the right types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distill.config.errors import UserError
from distill.storage.files import read_json


class Part(BaseModel):
    """A part of results that must be there, and of these types; there may be more in it."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Spread(Part):
    """A number over repetitions."""

    mean: float
    std: float
    min: float


def read_results_of(command: str, path: Path, format: str, parts: type[Part]) -> tuple[dict[str, Any], Any]:
    """The results that `python -m eval <command>` wrote, and the same as `parts`.

    Raises UserError, naming the first part that does not fit, where the file holds something else.
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
    """A value as a message has room for it."""
    text = " ".join(str(value).split())
    return text if len(text) <= 70 else f"{text[:67]}..."
