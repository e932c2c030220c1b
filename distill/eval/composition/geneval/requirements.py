"""GenEval's prompts and what each asks for, as its file `evaluation_metadata.jsonl` states it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from distill.config.errors import UserError, did_you_mean
from distill.eval.prompt_sets import PromptSet, read_contents, read_prompt_set
from distill.eval.prompt_sets.contents import Table

PUBLISHED_SHA256 = "f1bdba3e7d456d8b43264228633821e5d0e4b6d3da5fd9408a485417d9870c15"
"""Hash of the requirements of the published file, as `requirements_sha256` computes it."""
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
POSITIONS = ("left of", "right of", "above", "below")
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *("surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse"),
    *("tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""The 80 classes of COCO in its order, with GenEval's names for mouse, remote and keyboard."""


@dataclasses.dataclass(frozen=True)
class Clause:
    """At least `count` objects of a class, perhaps of a colour, perhaps beside those of another clause."""

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None
    """Where the objects are, seen from those of the clause with this number."""


@dataclasses.dataclass(frozen=True)
class Requirement:
    """What a prompt asks for: every clause of `include`, and none of `exclude`."""

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()


def read_requirements(source: str) -> tuple[PromptSet, list[Requirement]]:
    """Read GenEval's prompts from a file or the hub, and the requirement of each prompt of the list."""
    prompts = read_prompt_set(source, "geneval")
    (path, content), *_ = read_contents(source)
    assert isinstance(content, Table)
    columns = {name.lower(): values for name, values in content.columns.items()}
    excluded = columns.get("exclude", [None] * len(prompts))
    rows = zip(columns["tag"], columns["include"], excluded, strict=True)
    requirements = [
        _requirement(tag, include, exclude, f"--prompts {path}: row {row}")
        for row, (tag, include, exclude) in enumerate(rows, start=1)
    ]
    if requirements_sha256(prompts.texts, requirements) != PUBLISHED_SHA256 and not prompts.departures:
        prompts = dataclasses.replace(prompts, departures=("other prompts than the published",))
    return prompts, requirements


def requirements_sha256(texts: Sequence[str], requirements: Sequence[Requirement]) -> str:
    """Hash prompts with what they ask for, however their file is written."""
    content = [[text, dataclasses.asdict(one)] for text, one in zip(texts, requirements, strict=True)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _requirement(tag: object, include: object, exclude: object, where: str) -> Requirement:
    if tag not in TASKS:
        raise UserError(f"{where} has the tag {tag!r}{did_you_mean(str(tag), TASKS)}")
    if not isinstance(include, list) or not include:
        raise UserError(f"{where} has {include!r} for include; expected a list of objects")
    if not isinstance(exclude, list | None):
        raise UserError(f"{where} has {exclude!r} for exclude; expected a list of objects")
    return Requirement(
        str(tag),
        tuple(_clause(entry, number, f"{where}, include {number}") for number, entry in enumerate(include)),
        tuple(_clause(entry, 0, f"{where}, exclude {number}") for number, entry in enumerate(exclude or [])),
    )


def _clause(entry: Any, number: int, where: str) -> Clause:
    """Check the types of a clause; its position may name an earlier clause only."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
        raise UserError(f"{where} is {entry!r}; expected a class and a count")
    name, count, color = entry["class"], entry.get("count"), entry.get("color")
    if name not in CLASSES:
        raise UserError(f"{where}: '{name}' is no class of GenEval{did_you_mean(name, CLASSES)}")
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{where} has {count!r} for a count; expected at least 1")
    if color is not None and color not in COLORS:
        raise UserError(f"{where}: '{color}' is no colour of GenEval{did_you_mean(str(color), COLORS)}")
    return Clause(name, count, color, _position(entry.get("position"), number, where))


def _position(given: Any, number: int, where: str) -> tuple[str, int] | None:
    if given is None:
        return None
    is_pair = isinstance(given, list) and len(given) == 2
    if not is_pair or given[0] not in POSITIONS or given[1] not in range(number):
        raise UserError(
            f"{where} has {given!r} for a position; "
            f"expected one of {', '.join(POSITIONS)}, and the number of an earlier object"
        )
    return (given[0], given[1])
