"""Overrides from the command line, and messages about a configuration that does not validate.

A run's configuration is one complete YAML file, checked against the settings of `distill.training.settings`.
Overrides (`--generator.optimizer.lr 2e-4`) are written into the file's mapping before it is checked, so a
file and a command line follow the same rules and produce the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distill.config.errors import UserError, did_you_mean
from distill.config.yaml_files import parse_yaml

MAX_MESSAGE = 1500
"""Maximum length of a message in characters: names in a file may have any length."""
TAG_ERRORS = ("union_tag_not_found", "union_tag_invalid")
"""Pydantic's error types for a wrong or missing name among several choices."""


def differences(there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values wherever two nested mappings differ, in the order of the keys.

    The value of a mapping that lacks the key is None.
    """
    ours = _flatten(here)
    theirs = _flatten(there)
    for key in sorted({*ours, *theirs}):
        if theirs.get(key) != ours.get(key):
            yield key, theirs.get(key), ours.get(key)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat = {}
    for name, inner in items:
        flat.update(_flatten(inner, f"{prefix}.{name}".lstrip(".")))
    return flat


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Parse `--a.b value` and `--a.b=value` into pairs of a dotted key and a value read as YAML."""
    pairs = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise UserError(f"'{flag}': unexpected argument; expected overrides such as --generator.ema 0.99")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"{flag}: expected a value after it")
            value = rest.pop(0)
        try:
            pairs.append((key, parse_yaml(value)))
        except UserError:
            pairs.append((key, value))
    return pairs


def apply_override(content: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key; a number in the key is a position in a list, as in `terms.0.weight`."""
    *parents, last = key.replace("-", "_").split(".")
    place: Any = content
    for name in parents:
        entry = _entry(place, name, key)
        known = place[entry] if isinstance(place, list) else place.get(entry)
        if not isinstance(known, (dict, list)):
            known = place[entry] = {}
        place = known
    place[_entry(place, last, key)] = value


def _entry(place: Any, name: str, key: str) -> Any:
    if not isinstance(place, list):
        return name
    if not name.isdigit() or int(name) >= len(place):
        raise UserError(
            f"--{key}: '{name}' is not an entry of the list; expected a number below {len(place)}"
        )
    return int(name)


def describe(error: ValidationError, content: Any) -> str:
    """Describe the first error of a failed validation in one line: key, expected form, value found."""
    first = error.errors()[0]
    key = _dotted(first["loc"], content)
    if first["type"] in TAG_ERRORS:
        key = f"{key}.{_tag(first)}".lstrip(".")
    message = _describe_one(first)
    if len(message) >= MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}..."
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"{key}: {message}{more}" if key else message + more


def _describe_one(error: ErrorDetails) -> str:
    """Say what one error expected and, unless pydantic's own message does, what it found."""
    kind = error["type"]
    value = error.get("input")
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind in TAG_ERRORS:
        return _describe_tag(error)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message
    if kind == "literal_error":
        options = str(error["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        message += did_you_mean(str(value), options).split("; expected")[0]  # pydantic lists the options
    elif kind in ("int_parsing", "int_type", "int_from_float"):
        message = "expected a whole number, such as 10000 or 1e4"
    elif kind == "too_short":
        message = f"expected {error['ctx']['min_length']} or more"
    elif kind in ("float_parsing", "float_type"):
        message = "expected a number, such as 0.0001 or 1e-4"
    return f"{message}; found {_shorten(value)}"


def _describe_tag(error: ErrorDetails) -> str:
    """Say which name was given where one of several was expected."""
    value = error.get("input")
    choices = error["ctx"].get("expected_tags", "").replace("'", "").split(", ")
    if choices == [""]:
        return "is missing"
    given = value.get(_tag(error)) if isinstance(value, dict) else value
    return f"is {_shorten(given)}{did_you_mean(str(given), choices)}"


def _tag(error: ErrorDetails) -> str:
    """Return the key whose value names the choice."""
    return error["ctx"]["discriminator"].strip("'")


def _shorten(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(location: Sequence[str | int], content: Any) -> str:
    """Join a pydantic location with dots, without the tags of the unions that it passes through."""
    parts = []
    place = content
    for part in location:
        if isinstance(place, dict) and part not in place and part in (place.get("name"), place.get("task")):
            continue
        if isinstance(part, str) and part.startswith("("):  # a tag that is no name in a configuration
            continue
        parts.append(str(part))
        if isinstance(place, dict):
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
    return ".".join(parts)
