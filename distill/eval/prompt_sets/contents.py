"""Content of a file of prompts: a table, a JSON value, or lines of text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.config.errors import UserError, first_line
from distill.config.text_files import decode_text, split_lines

PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
"""Names of a table's column of prompts. The first that exists is read; upper and lower case are equal."""
OTHER_COLUMNS = ("category", "challenge")
"""Names of other columns that formats need."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length by their names; None stands for a missing cell."""

    columns: dict[str, list[Any]]

    def named(self, *names: str) -> str | None:
        """Return the name in the file of the first of these columns that exists; case does not matter."""
        found = {name.lower(): name for name in reversed(self.columns)}
        for name in names:
            if name in found:
                return found[name]
        return None


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
    """Read a file as a table, JSON or lines, according to its first characters and its ending.

    `as_text` reads it as lines, whatever it looks like.
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
        # Other columns are not read: they may hold images.
        wanted = [name for name in names if name.lower() in (*PROMPT_COLUMNS, *OTHER_COLUMNS)]
        columns = parquet.read_table(path, columns=wanted)
    except (OSError, lib.ArrowException) as error:
        raise UserError(f"--prompts {path}: cannot be read as Parquet ({first_line(error)})") from error
    if not wanted:
        return Table({name: [] for name in names})
    return Table({name: columns[name].to_pylist() for name in wanted})


def _read_json(text: str, path: Path) -> Content:
    """Read a JSON value. A list of objects, or one object on every line, is a table.

    Text that begins with a bracket but is not JSON is read as lines.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _read_json_lines(text, path, error)
    rows = [value] if path.suffix == ".jsonl" else value
    is_table = isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)
    return _table_of(rows) if is_table else Json(value)


def _read_json_lines(text: str, path: Path, whole: Exception) -> Content:
    """Read one JSON object on every line; `whole` is why the whole text is not JSON."""
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
    """Read values separated by tabs or commas; return None if the first line does not name columns.

    With tabs, each line is a row. With commas, cells may be quoted and may then contain line ends.
    """
    first = split_lines(text)[0]
    by_tabs = "\t" in first or path.suffix == ".tsv"
    names = [name.strip() for name in first.split("\t" if by_tabs else ",")]
    known = any(name.lower() in PROMPT_COLUMNS for name in names)
    if path.suffix not in (".tsv", ".csv") and not (known and len(names) > 1):
        return None
    table = _table_of_cells(_read_cells(text, by_tabs, path), _unquoted if by_tabs else str, path)
    for column in (table.named(*PROMPT_COLUMNS), table.named("category")):
        if column is not None and None in table.columns[column]:
            row = table.columns[column].index(None) + 2
            raise UserError(
                f"--prompts {path}: row {row} ends before its column '{column}'; "
                "expected one row a line, without line ends in cells"
            )
    return table


def _read_cells(text: str, by_tabs: bool, path: Path) -> list[list[str]]:
    """Return the cells of every row that is not blank."""
    handle = io.StringIO(text, newline="")
    try:
        if by_tabs:
            rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
        else:
            rows = list(csv.reader(handle, strict=True))
    except csv.Error as error:
        raise UserError(f"--prompts {path}: cannot be read as a table ({error})") from error
    return [row for row in rows if any(cell.strip() for cell in row)]


def _table_of_cells(rows: list[list[str]], unquoted: Callable[[str], str], path: Path) -> Table:
    """Build the table whose first row names the columns; cells that short rows lack are None."""
    names = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows, start=1):
        if len(row) > len(names):
            raise UserError(
                f"--prompts {path}: row {number} has {len(row)} columns; expected {len(names)} as its first"
            )
    return Table(
        {
            name: [unquoted(row[place]) if place < len(row) else None for row in rows[1:]]
            for place, name in enumerate(names)
        }
    )


def _unquoted(cell: str) -> str:
    """Remove the quotes that a spreadsheet puts around a cell, in which it doubles quotes.

    Quotes around a cell without doubled ones belong to the text and stay.
    """
    inner = cell[1:-1]
    in_quotes = len(cell) > 1 and cell[0] == cell[-1] == '"'
    if in_quotes and '""' in inner and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell
