"""Formats in which benchmarks publish their prompts: how each is recognised and read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from distill.config.errors import UserError
from distill.config.text_files import is_text
from distill.eval.prompt_sets.contents import PROMPT_COLUMNS, Content, Json, Lines, Table


class Prompt(NamedTuple):
    """A prompt and its category, if its list has categories.

    For a model that takes no text, `label` is a class and `text` its name.
    """

    text: str
    category: str | None = None
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """The content of a file, with the facts that its readers need."""

    content: Content
    path: str
    """Path of the file, for messages."""
    stem: str
    """Name of the file without its ending."""
    all_captions: bool = False
    """Read every caption of an image, not only one."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of prompt lists."""

    fits: Callable[[Content], bool]
    """Returns whether content has this format."""
    read: Callable[[Source], list[Prompt]]
    """Reads the prompts of content that has this format."""
    expected: str
    """Describes the format in messages."""
    published: int | None = None
    """Number of prompts of the published benchmark, if the format belongs to one."""


def _has_columns(content: Content, *names: str) -> bool:
    return isinstance(content, Table) and {name.lower() for name in content.columns} >= set(names)


def _fits_parti(content: Content) -> bool:
    return _has_columns(content, "prompt", "category", "challenge")


def _fits_drawbench(content: Content) -> bool:
    return _has_columns(content, "prompts", "category")


def _fits_hpsv2(content: Content) -> bool:
    return isinstance(content, Json) and isinstance(content.value, list)


def _fits_coco(content: Content) -> bool:
    if not isinstance(content, Json) or not isinstance(content.value, dict):
        return False
    return isinstance(content.value.get("annotations"), list)


def _fits_mjhq(content: Content) -> bool:
    if not isinstance(content, Json) or not isinstance(content.value, dict):
        return False
    entries = content.value.values()
    return bool(entries) and all(isinstance(entry, dict) and "prompt" in entry for entry in entries)


def _fits_geneval(content: Content) -> bool:
    return _has_columns(content, "tag", "include", "prompt")


def _fits_dpg(content: Content) -> bool:
    return _has_columns(content, "item_id", "text", "proposition_id", "dependency")


def _fits_longtext(content: Content) -> bool:
    return _has_columns(content, "prompt", "text", "prompt_id")


def _fits_cvtg(content: Content) -> bool:
    return (
        isinstance(content, Json)
        and isinstance(content.value, dict)
        and isinstance(content.value.get("data_list"), list)
    )


def _fits_table(content: Content) -> bool:
    return isinstance(content, Table) and content.named(*PROMPT_COLUMNS) is not None


def _fits_text(content: Content) -> bool:
    return isinstance(content, Lines)


def read_table(source: Source) -> list[Prompt]:
    """Read a column of prompts and, if there is one, a column of categories."""
    table = source.content
    assert isinstance(table, Table)
    column = table.named(*PROMPT_COLUMNS)
    assert column is not None
    texts = table.columns[column]
    category = table.named("category")
    categories = table.columns[category] if category else [None] * len(texts)
    pairs = zip(texts, categories, strict=True)
    return [_prompt(text, kind, source, f"row {row}") for row, (text, kind) in enumerate(pairs, start=1)]


def read_hpsv2(source: Source) -> list[Prompt]:
    """Read a list of prompts in one style, which is the name of the file."""
    assert isinstance(source.content, Json)
    texts = enumerate(source.content.value, start=1)
    return [_prompt(text, source.stem, source, f"entry {row}") for row, text in texts]


def read_coco(source: Source) -> list[Prompt]:
    """Read COCO's captions, sorted by image id and then by caption id: the first of each image, or all."""
    assert isinstance(source.content, Json)
    try:
        found = [(one["image_id"], one["id"], one["caption"]) for one in source.content.value["annotations"]]
        found.sort(key=lambda one: one[:2])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--prompts {source.path}: expected annotations of image_id, id and caption, "
            "as in captions_val2014.json"
        ) from error
    if not source.all_captions:
        found = [next(captions) for _, captions in itertools.groupby(found, key=lambda one: one[0])]
    return [_prompt(text, None, source, f"caption {number}") for _, number, text in found]


def read_mjhq(source: Source) -> list[Prompt]:
    """Read prompts with their categories, by the ids of Midjourney's images, in the order of the file."""
    assert isinstance(source.content, Json)
    return [
        _prompt(entry["prompt"], entry.get("category"), source, f"'{name}'")
        for name, entry in source.content.value.items()
    ]


def read_geneval(source: Source) -> list[Prompt]:
    """Read GenEval's prompts; the category is the tag of the task."""
    columns = _columns(source)
    pairs = zip(columns["prompt"], columns["tag"], strict=True)
    return [_prompt(text, tag, source, f"row {row}") for row, (text, tag) in enumerate(pairs, start=1)]


def read_dpg(source: Source) -> list[Prompt]:
    """Read DPG-Bench's prompts: one for each item, which has a row for each question."""
    columns = _columns(source)
    texts: dict[object, object] = {}
    for item, text in zip(columns["item_id"], columns["text"], strict=True):
        texts.setdefault(item, text)
    return [_prompt(text, None, source, f"item '{item}'") for item, text in texts.items()]


def read_longtext(source: Source) -> list[Prompt]:
    """Read LongText-Bench's prompts, with categories if there are any."""
    columns = _columns(source)
    categories = columns.get("category", [None] * len(columns["prompt"]))
    pairs = zip(columns["prompt"], categories, strict=True)
    return [_prompt(text, kind, source, f"row {row}") for row, (text, kind) in enumerate(pairs, start=1)]


def read_cvtg(source: Source) -> list[Prompt]:
    """Read one file of CVTG-2K; the category is the name of the file, which counts the texts."""
    assert isinstance(source.content, Json)
    prompts = []
    for row, entry in enumerate(source.content.value["data_list"], start=1):
        text = entry.get("prompt") if isinstance(entry, dict) else None
        prompts.append(_prompt(text, source.stem, source, f"entry {row}"))
    return prompts


def _columns(source: Source) -> dict[str, list[Any]]:
    """Return the columns of a table by their names in lower case."""
    assert isinstance(source.content, Table)
    return {name.lower(): values for name, values in source.content.columns.items()}


def read_lines(source: Source) -> list[Prompt]:
    """Read one prompt from each line that is not blank."""
    assert isinstance(source.content, Lines)
    return [Prompt(line.strip()) for line in source.content.lines if line.strip()]


def _prompt(text: object, category: object, source: Source, where: str) -> Prompt:
    """Check the types of a prompt and its category; `where` names their entry in messages."""
    if not isinstance(text, str) or not is_text(text):
        raise UserError(f"--prompts {source.path}: {where} has {text!r} for a prompt; expected text")
    if category is None:
        return Prompt(text.strip())
    if not isinstance(category, str):
        raise UserError(f"--prompts {source.path}: {where} has {category!r} for a category; expected text")
    return Prompt(text.strip(), category.strip() or None)


FORMATS = {
    "parti": Format(_fits_parti, read_table, "a table of Prompt, Category and Challenge", 1632),
    "drawbench": Format(_fits_drawbench, read_table, "a table of Prompts and Category", 200),
    "hpsv2": Format(
        _fits_hpsv2,
        read_hpsv2,
        "a JSON list of texts for each style, or the folder of anime.json and the others",
        3200,
    ),
    "coco": Format(_fits_coco, read_coco, "JSON with annotations of image_id, id and caption"),
    "mjhq": Format(_fits_mjhq, read_mjhq, "JSON of ids, each with a prompt and a category", 30_000),
    "geneval": Format(
        _fits_geneval, read_geneval, "GenEval's JSONL of tag, include and prompt, exclude if it has any", 553
    ),
    "dpg": Format(
        _fits_dpg,
        read_dpg,
        "DPG-Bench's CSV of item_id, text, proposition_id, dependency and questions",
        1065,
    ),
    "longtext": Format(
        _fits_longtext, read_longtext, "LongText-Bench's JSONL of prompt_id, prompt and text", 160
    ),
    "cvtg": Format(_fits_cvtg, read_cvtg, "one of CVTG-2K's files, JSON with a data_list of prompts", 2000),
    "table": Format(
        _fits_table,
        read_table,
        "a table (TSV, CSV, JSONL or Parquet) with a column "
        f"{', '.join(PROMPT_COLUMNS[:-1])} or {PROMPT_COLUMNS[-1]}",
    ),
    "text": Format(_fits_text, read_lines, "a text file, one prompt a line"),
}
"""Formats by the names that `--format` takes.

The first that fits decides how a file is read, so narrower formats come first.
"""
