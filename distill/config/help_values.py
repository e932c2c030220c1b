"""Help on one configuration: the value of each of its settings, beside the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.config.help import ALL, indent, plain, unknown_topic
from distill.config.setting_tree import REQUIRED, default_of, is_tag, name_of
from distill.config.settings import Settings


@dataclasses.dataclass(frozen=True)
class Value:
    """A setting of a configuration, its value there and its default."""

    flag: str
    """Dotted name on the command line, such as terms.0.weight."""
    topic: str
    """Dotted name of its help, such as terms.gan.weight."""
    value: Any
    default: Any
    text: str

    @property
    def is_changed(self) -> bool:
        """The value differs from the default, or there is no default."""
        return self.default is REQUIRED or bool(self.value != self.default)

    def is_under(self, topic: str) -> bool:
        """Return whether the setting is the topic or is nested in it."""
        parts = [part for part in self.flag.split(".") if not part.isdigit()]
        names = (self.flag, ".".join(parts), self.topic)
        return any(f"{name}.".startswith(f"{topic}.") for name in names)


def describe_values(source: Path, config: Settings, topic: str | None = None) -> str:
    """Describe the values of a configuration, one a line; with a topic, also their help texts."""
    values = list(list_values(config))
    found = values
    if topic is not None and topic != ALL:
        found = [value for value in values if value.is_under(topic)]
    if topic is not None and not found:
        names = dict.fromkeys(name for value in values for name in _prefixes(value.topic))
        raise unknown_topic(topic, f"of {source}", list(names), [name for name in names if "." not in name])
    width = max(len(value.flag) for value in found)
    lines = [f"{source}: * marks values that differ from the default or have no default."]
    explained: set[str] = set()
    for value in found:
        lines.append(_line(value, width))
        if topic is not None and value.text and value.topic not in explained:
            lines.append(indent(value.text))
            explained.add(value.topic)
    return "\n".join(lines)


def list_values(
    settings: Settings, flag: str = "", topic: str = "", defaults: object = REQUIRED
) -> Iterator[Value]:
    """List the values of settings and of all nested in them. `defaults` is what the parent has by default."""
    fields = type(settings).model_fields
    for name in sorted(fields, key=lambda name: not is_tag(fields[name])):  # the name of a choice comes first
        row = _read_value(settings, name, flag, topic, defaults)
        nested = row.value
        if isinstance(nested, Settings):
            if name_of(nested) is None and not isinstance(row.default, Settings):
                yield row
            yield from list_values(nested, f"{row.flag}.", _topic_of(row.topic, nested), row.default)
            continue
        yield row
        for index, entry in enumerate(nested if isinstance(nested, tuple) else ()):
            if isinstance(entry, Settings):
                yield from list_values(entry, f"{row.flag}.{index}.", _topic_of(row.topic, entry))


def _read_value(settings: Settings, name: str, flag: str, topic: str, defaults: object) -> Value:
    field = type(settings).model_fields[name]
    if not is_tag(field):
        default = default_of(type(settings), name, defaults)
    elif isinstance(defaults, Settings):
        default = name_of(defaults)
    else:
        default = defaults
    text = " ".join((field.description or "").split())
    return Value(f"{flag}{name}", f"{topic}{name}", getattr(settings, name), default, text)


def _topic_of(topic: str, settings: Settings) -> str:
    name = name_of(settings)
    return f"{topic}." if name is None else f"{topic}.{name}."


def _line(value: Value, width: int) -> str:
    line = f"{'*' if value.is_changed else ' '} {value.flag:{width}}  {plain(value.value)}"
    if value.default is REQUIRED:
        return f"{line}  (no default)"
    return f"{line}  (default {plain(value.default)})" if value.is_changed else line


def _prefixes(topic: str) -> Iterator[str]:
    parts = topic.split(".")
    for length in range(len(parts)):
        yield ".".join(parts[: length + 1])
