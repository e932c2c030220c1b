"""The configuration of a run: one complete YAML file, checked against the typed settings of `distill.training.settings`.

Overrides from the command line (`--generator.optimizer.lr 2e-4`) are put into the file's mapping before it is checked, so that a file and a
command line are read by the same rules and answered by the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from distill.config.errors import UserError, did_you_mean
from distill.config.yaml_files import parse_yaml

MAX_MESSAGE = 1500
"""Characters of a complaint: names that someone wrote may be of any length."""


def differences(there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: the dotted key and both values, None where one has none, in the order of the keys."""
    ours, theirs = _flat(here), _flat(there)
    for key in sorted({*ours, *theirs}):
        if theirs.get(key) != ours.get(key):
            yield key, theirs.get(key), ours.get(key)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: leaf
            for name, inner in items
            for key, leaf in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()
        }
    return {prefix: value}


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """`--a.b value` and `--a.b=value` as pairs of a dotted key and a value read as YAML. Raises UserError for anything else."""
    pairs, rest = [], list(arguments)
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
    """Set a dotted key; `terms.0.weight` reaches into lists. Raises UserError where a list has no such entry."""
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
    """The first complaint as one line: key, what was expected, what was found."""
    first, count = error.errors()[0], error.error_count()
    place, value = _dotted(first["loc"], content), first.get("input")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        choices = first["ctx"].get("expected_tags", "").replace("'", "").split(", ")
        tag = first["ctx"]["discriminator"].strip("'")
        place = f"{place}.{tag}".lstrip(".")
        given = value.get(tag) if isinstance(value, dict) else value
        message = (
            f"is {_short(given)}{did_you_mean(str(given), choices)}" if choices != [""] else "is missing"
        )
    elif first["type"] == "missing":
        message = "is missing"
    elif first["type"] == "literal_error":
        message += did_you_mean(
            str(value), str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        ).split("; expected")[0]
    elif first["type"] in ("int_parsing", "int_type", "int_from_float"):
        message = "expected a whole number, such as 10000 or 1e4"
    elif first["type"] in ("float_parsing", "float_type"):
        message = "expected a number, such as 0.0001 or 1e-4"
    if first["type"] not in ("value_error", "missing", "union_tag_not_found", "union_tag_invalid"):
        message += f"; found {_short(value)}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    message = message if len(message) < MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
    return f"{place}: {message}{more}" if place else message + more


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(location: Sequence[str | int], content: Any) -> str:
    """A pydantic location without the tags of the unions that it passes through."""
    parts, place = [], content
    for part in location:
        if isinstance(place, dict) and part not in place and part in (place.get("name"), place.get("task")):
            continue
        parts.append(str(part))
        if isinstance(place, dict):
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
    return ".".join(parts)
