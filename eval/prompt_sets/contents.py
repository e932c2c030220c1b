"""What a file of prompts holds, before anyone asks which benchmark it is: a table, a JSON value, or lines of text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from distill.config.errors import UserError
from distill.config.text_files import decode_text, split_lines

PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
"""Names of a table's column of prompts, the first that is there, in capitals or not."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns by their names, of one length, None where a row has nothing there."""

    columns: dict[str, list[Any]]

    def named(self, *names: str) -> str | None:
        """The name of the first of these columns that is there, in capitals or not."""
        found = {name.lower(): name for name in reversed(self.columns)}
        return next((found[name] for name in names if name in found), None)


@dataclasses.dataclass(frozen=True)
class Json:
    """A JSON value."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of a text file."""

    lines: list[str]


Content = Table | Json | Lines


def read_content(path: Path, as_text: bool = False) -> Content:
    """What a file holds, by what is in it; its ending decides where that says too little. `as_text` takes it for lines whatever it looks like.

    Raises UserError where it cannot be read, is empty, or is not what it begins as.
    """
    try:
        content = path.read_bytes()
        if content[:4] == b"PAR1" and not as_text:
            return _read_parquet(path)
    except OSError as error:
        raise UserError(f"--prompts {path}: cannot be read ({error.strerror})") from error
    text = decode_text(content, f"--prompts {path}")
    if not text.strip():
        raise UserError(f"--prompts {path}: holds no prompt")
    if as_text:
        return Lines(split_lines(text))
    if path.suffix in (".json", ".jsonl") or text.lstrip()[0] in "[{":
        return _read_json(text, path)
    return _read_table(text, path) or Lines(split_lines(text))


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import lib, parquet
    except ImportError as error:
        raise UserError(
            f"--prompts {path}: is Parquet, which needs pyarrow; pip install '.[data]'"
        ) from error
    try:
        names = parquet.read_schema(path).names
        wanted = [
            name for name in names if name.lower() in (*PROMPT_COLUMNS, "category", "challenge")
        ]  # others may hold images
        columns = parquet.read_table(path, columns=wanted)
    except (OSError, lib.ArrowException) as error:
        raise UserError(
            f"--prompts {path}: cannot be read as Parquet ({str(error).splitlines()[0]})"
        ) from error
    return Table({name: columns[name].to_pylist() for name in wanted} or {name: [] for name in names})


def _read_json(text: str, path: Path) -> Content:
    """A JSON value; objects in a list, or one on every line, as a table. A text file may begin with a bracket too."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _read_json_lines(text, path, error)
    rows = [value] if path.suffix == ".jsonl" else value
    is_table = isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)
    return _table_of(rows) if is_table else Json(value)


def _read_json_lines(text: str, path: Path, whole: Exception) -> Content:
    rows = []
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if path.suffix == ".json":
                raise UserError(f"--prompts {path}: is not JSON ({whole})") from error
            if path.suffix == ".jsonl":
                raise UserError(f"--prompts {path}, line {number}: is not JSON ({error})") from error
            return Lines(split_lines(text))
        if not isinstance(rows[-1], dict):
            raise UserError(
                f"--prompts {path}, line {number}: expected a JSON object, found {type(rows[-1]).__name__}"
            )
    return _table_of(rows)


def _table_of(rows: list[dict[str, Any]]) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names})


def _read_table(text: str, path: Path) -> Table | None:
    """Values separated by tabs, each row a line, or by commas, quoted where they must be; None where the first line names no columns."""
    first = split_lines(text)[0]
    by_tabs = "\t" in first or path.suffix == ".tsv"
    names = [name.strip() for name in first.split("\t" if by_tabs else ",")]
    known = any(name.lower() in PROMPT_COLUMNS for name in names)
    if path.suffix not in (".tsv", ".csv") and not (known and len(names) > 1):
        return None
    try:
        settings: dict[str, Any] = (
            {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if by_tabs else {"strict": True}
        )
        rows = [
            row
            for row in csv.reader(io.StringIO(text, newline=""), **settings)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise UserError(f"--prompts {path}: cannot be read as a table ({error})") from error
    names = [name.strip() for name in rows[0]]
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) > len(names)), None)
    if wrong is not None:
        raise UserError(
            f"--prompts {path}: row {wrong} has {len(rows[wrong - 1])} columns; expected {len(names)} as its first"
        )
    unquoted = _unquoted if by_tabs else str
    table = Table(
        {
            name: [unquoted(row[place]) if place < len(row) else None for row in rows[1:]]
            for place, name in enumerate(names)
        }
    )
    for column in (table.named(*PROMPT_COLUMNS), table.named("category")):
        if column is not None and None in table.columns[column]:
            short = f"row {table.columns[column].index(None) + 2} ends before its column '{column}'"
            raise UserError(f"--prompts {path}: {short}; expected one row a line, without line ends in cells")
    return table


def _unquoted(cell: str) -> str:
    """A cell without the quotes of a spreadsheet, which stand around it and are doubled in it; others belong to the text."""
    inner = cell[1:-1]
    quoted = (
        len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    )
    return inner.replace('""', '"') if quoted else cell
