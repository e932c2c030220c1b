"""DPG-Bench's prompts with their questions, as its file `dpg_bench.csv` states them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distill.config.errors import UserError
from distill.eval.prompt_sets import PromptSet, read_contents, read_prompt_set
from distill.eval.prompt_sets.contents import Table

COLUMNS = ("item_id", "proposition_id", "dependency", "question_natural_language")
"""Columns that are needed beside the text."""
KINDS = ("tuple", "category_broad")
"""Columns that name the kind of a question, the first that exists: `attribute - color (car, red)` is of the
kind `attribute`."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question that is answered yes if the image shows one proposition of its prompt."""

    number: int
    text: str
    parents: tuple[int, ...]
    """Numbers of the questions without whose yes this one does not count."""
    kind: str


def read_questions(source: str) -> tuple[PromptSet, dict[str, list[Question]]]:
    """Read DPG-Bench's prompts from a file or the hub, and the questions of each item, in their order."""
    prompts = read_prompt_set(source, "dpg")
    (path, content), *_ = read_contents(source)
    assert isinstance(content, Table)
    columns = {name.lower(): values for name, values in content.columns.items()}
    kind = next((name for name in KINDS if name in columns), None)
    for name in (*COLUMNS, KINDS[0] if kind is None else kind):
        if name not in columns:
            raise UserError(f"--prompts {path}: has no column {name}; expected DPG-Bench's dpg_bench.csv")
    assert kind is not None
    items: dict[str, list[Question]] = {}
    for row in range(len(columns["item_id"])):
        cells = {name: columns[name][row] for name in (*COLUMNS, kind)}
        where = f"--prompts {path}: row {row + 2}"
        items.setdefault(str(cells["item_id"]), []).append(_question(cells, cells[kind], where))
    for item, questions in items.items():
        _check_numbers(questions, f"--prompts {path}: item '{item}'")
    return prompts, items


def _question(cells: Mapping[str, Any], kind: object, where: str) -> Question:
    text = cells["question_natural_language"]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has {text!r} for a question; expected text")
    numbers = [_number(part, where) for part in str(cells["dependency"]).split(",")]
    parents = tuple(number for number in numbers if number != 0)
    broad = str(kind).partition("(")[0].partition("-")[0].strip()
    return Question(_number(cells["proposition_id"], where), text.strip(), parents, broad)


def _number(value: object, where: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise UserError(
            f"{where} has '{value}' where the number of a question is expected, such as 1, or 0 for none"
        ) from None


def _check_numbers(questions: list[Question], where: str) -> None:
    """Refuse questions that share a number, and parents that are not there."""
    numbers = [question.number for question in questions]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{where} has two questions of one number; expected each once")
    for question in questions:
        for parent in question.parents:
            if parent not in numbers:
                raise UserError(f"{where}: question {question.number} depends on {parent}, which it has not")
