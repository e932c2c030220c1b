"""The formats in which benchmarks publish their prompts: how each is known, and how it is read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from distill.config.errors import UserError
from distill.config.text_files import is_text
from eval.prompt_sets.contents import PROMPT_COLUMNS, Content, Json, Lines, Table


class Prompt(NamedTuple):
    """A prompt and its category, if its list has any; or a label of a model that takes no text, and what it is called."""

    text: str
    category: str | None = None
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """What a file holds, its path for messages, its name without ending, and whether every caption of an image is wanted, not one."""

    content: Any
    path: str
    stem: str
    all_captions: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
    """Whether content is of the format; the prompts of such content; what is expected; how many prompts the published set has, where it is one."""

    fits: Callable[[Content], bool]
    read: Callable[[Source], list[Prompt]]
    expected: str
    published: int | None = None


def _is_table(*names: str) -> Callable[[Content], bool]:
    return lambda content: (
        isinstance(content, Table) and {name.lower() for name in content.columns} >= set(names)
    )


def _fits_hpsv2(content: Content) -> bool:
    return isinstance(content, Json) and isinstance(content.value, list)


def _fits_coco(content: Content) -> bool:
    return (
        isinstance(content, Json)
        and isinstance(content.value, dict)
        and isinstance(content.value.get("annotations"), list)
    )


def _fits_mjhq(content: Content) -> bool:
    entries = (
        list(content.value.values()) if isinstance(content, Json) and isinstance(content.value, dict) else []
    )
    return bool(entries) and all(isinstance(entry, dict) and "prompt" in entry for entry in entries)


def read_table(source: Source) -> list[Prompt]:
    """A column of prompts, and one of categories if there is any."""
    table: Table = source.content
    column, category = table.named(*PROMPT_COLUMNS), table.named("category")
    assert column is not None
    categories = table.columns[category] if category else [None] * len(table.columns[column])
    pairs = zip(table.columns[column], categories, strict=True)
    return [_prompt(text, kind, source, f"row {row}") for row, (text, kind) in enumerate(pairs, start=1)]


def read_hpsv2(source: Source) -> list[Prompt]:
    """A list of prompts in one style, which the file is named for."""
    return [
        _prompt(text, source.stem, source, f"entry {row}")
        for row, text in enumerate(source.content.value, start=1)
    ]


def read_coco(source: Source) -> list[Prompt]:
    """COCO's captions in the order of the images' ids, and of one image in that of their own; of each image the first, or all."""
    try:
        found = [(one["image_id"], one["id"], one["caption"]) for one in source.content.value["annotations"]]
        found.sort(key=lambda one: one[:2])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--prompts {source.path}: expected annotations of image_id, id and caption, as in captions_val2014.json"
        ) from error
    if not source.all_captions:
        found = [next(captions) for _, captions in itertools.groupby(found, key=lambda one: one[0])]
    return [_prompt(text, None, source, f"caption {number}") for _, number, text in found]


def read_mjhq(source: Source) -> list[Prompt]:
    """Prompts by the ids of Midjourney's images, in the file's order, with their categories."""
    return [
        _prompt(entry["prompt"], entry.get("category"), source, f"'{name}'")
        for name, entry in source.content.value.items()
    ]


def read_lines(source: Source) -> list[Prompt]:
    """Lines that are not blank."""
    return [Prompt(line.strip()) for line in source.content.lines if line.strip()]


def _prompt(text: Any, category: Any, source: Source, where: str) -> Prompt:
    if not is_text(text):
        raise UserError(f"--prompts {source.path}: {where} has {text!r} for a prompt; expected text")
    if category is not None and not isinstance(category, str):
        raise UserError(f"--prompts {source.path}: {where} has {category!r} for a category; expected text")
    return Prompt(text.strip(), category.strip() or None if category is not None else None)


FORMATS = {
    "parti": Format(
        _is_table("prompt", "category", "challenge"),
        read_table,
        "a table of Prompt, Category and Challenge",
        1632,
    ),
    "drawbench": Format(_is_table("prompts", "category"), read_table, "a table of Prompts and Category", 200),
    "hpsv2": Format(
        _fits_hpsv2,
        read_hpsv2,
        "a JSON list of texts for each style, or the folder of anime.json and the others",
        3200,
    ),
    "coco": Format(_fits_coco, read_coco, "JSON with annotations of image_id, id and caption"),
    "mjhq": Format(_fits_mjhq, read_mjhq, "JSON of ids, each with a prompt and a category", 30_000),
    "table": Format(
        lambda content: isinstance(content, Table) and content.named(*PROMPT_COLUMNS) is not None,
        read_table,
        f"a table (TSV, CSV, JSONL or Parquet) with a column {', '.join(PROMPT_COLUMNS[:-1])} or {PROMPT_COLUMNS[-1]}",
    ),
    "text": Format(lambda content: isinstance(content, Lines), read_lines, "a text file, one prompt a line"),
}
"""By the names that `--format` takes, the narrower before the wider."""
