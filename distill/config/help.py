"""Help on settings by topic: the dotted name of a setting or of a choice. It imports nothing heavy."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.errors import UserError, did_you_mean
from distill.config.setting_tree import REQUIRED, Option, Setting, name_of, read_settings
from distill.config.settings import Settings

WIDTH = 110
ALL = "all"
"""The topic that is every setting."""


def describe_most_used(model: type[Settings], names: Sequence[str]) -> str:
    """Describe some settings of a run in one sentence each."""
    roots = read_settings(model)
    entries = []
    for name in names:
        (setting,) = find(roots, name)
        assert isinstance(setting, Setting)
        first_sentence = setting.text.partition(". ")[0].removesuffix(".") + "."
        entries.append(f"{_headline(setting)}\n{indent(first_sentence)}")
    return "\n".join(entries)


def sections(tasks: Mapping[str, type[Settings]]) -> list[str]:
    """Return the topics that group settings, in the order of the tasks' fields."""
    roots = [setting for model in tasks.values() for setting in read_settings(model)]
    return list(dict.fromkeys(setting.flag for setting in roots if setting.below))


def describe_topic(tasks: Mapping[str, type[Settings]], topic: str) -> str:
    """Describe the settings under a dotted name, task by task; those that tasks share appear once."""
    blocks: list[str] = []
    shown: list[Setting | Option] = []
    for task, model in tasks.items():
        roots = read_settings(model)
        found = roots if topic == ALL else find(roots, topic)
        new = [entry for entry in found if entry not in shown]
        if new:
            blocks.append(f"task: {task} - {model.__doc__}" + (" Further settings:" if shown else ""))
        for entry in new:
            if isinstance(entry, Setting) and entry.topic != entry.flag:
                blocks.append(f"    of {entry.topic.rpartition('.')[0]}:")
            blocks += _describe(entry, expand=topic == ALL)
        shown += new
    if not blocks:
        known = [name for model in tasks.values() for name in topics(read_settings(model))]
        raise unknown_topic(topic, "of --help", known, [*sections(tasks), ALL])
    return "\n".join(blocks)


def find(roots: Sequence[Setting], topic: str) -> list[Setting | Option]:
    """Return the settings and choices of a dotted name. Numbers in it, positions in lists, are ignored."""
    parts = [part for part in topic.split(".") if not part.isdigit()]
    found: Sequence[Setting | Option] = roots
    for depth, part in enumerate(parts):
        below = found if depth == 0 else [child for entry in found for child in entry.below]
        found = [entry for entry in below if entry.topic.rpartition(".")[2] == part]
    # A default may be a mapping, which has no hash.
    return [entry for place, entry in enumerate(found) if entry not in found[:place]]


def topics(entries: Sequence[Setting | Option]) -> Iterator[str]:
    """List the dotted names of settings and choices, and of all below them."""
    for entry in entries:
        yield entry.topic
        if isinstance(entry, Setting):
            yield entry.flag
            yield from topics(entry.options)
        yield from topics(entry.settings)


def unknown_topic(topic: str, place: str, known: Sequence[str], roots: Sequence[str]) -> UserError:
    """Make the error for an unknown topic. It names a setting of that name, or else the nearest topic."""
    ending = [name for name in known if name.endswith(f".{topic}")]
    near = ending or difflib.get_close_matches(topic, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else did_you_mean(topic, roots)
    return UserError(f"'{topic}' is no topic {place}{hint}")


def _describe(entry: Setting | Option, expand: bool) -> Iterator[str]:
    """Describe a setting or a choice with all below it. `expand` adds the settings of each choice."""
    if isinstance(entry, Option):
        yield f"    with {entry.flag}.name = {entry.name}:\n{indent(entry.text)}"
    else:
        yield f"{_headline(entry)}\n{indent(entry.text)}"
    for setting in entry.settings:
        yield from _describe(setting, expand)
    options = entry.options if isinstance(entry, Setting) else ()
    for option in options:
        if expand:
            yield from _describe(option, expand)
        else:
            first_paragraph = option.text.partition("\n\n")[0]
            yield indent(f"{option.name}: {first_paragraph}")
    with_settings = [option for option in options if option.settings]
    if with_settings and not expand:
        yield indent(f"`--help {with_settings[-1].topic}` lists the settings of one of these.")


def _headline(setting: Setting) -> str:
    """Return the line with a setting's type and default, wrapped if it is longer than a line."""
    line = f"  --{setting.flag} {setting.kind}"
    if setting.default is REQUIRED:
        line = f"{line} (required)"
    elif not (setting.settings and isinstance(setting.default, Settings)):
        line = f"{line} = {plain(setting.default)}"
    margin = " " * 10
    return textwrap.fill(
        line, WIDTH, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )


def indent(text: str) -> str:
    """Wrap a text under the line that it explains."""
    margin = " " * 8
    words = " ".join(text.split())
    return textwrap.fill(
        words, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )


def plain(value: Any) -> str:
    """Write a value as a configuration has it."""
    if isinstance(value, Settings):
        return name_of(value) or "{...}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(plain(entry) for entry in value) + "]"
    if isinstance(value, float):
        short = f"{value:g}"
        return (short if float(short) == value else repr(value)).replace("e+0", "e").replace("e-0", "e-")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
