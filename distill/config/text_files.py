"""Text as people save it: UTF-8 with or without a byte-order mark, lines that end as on any system."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.config.errors import UserError

LINE_END = re.compile("\r\n|\r|\n")
"""What ends a line. Others that Unicode names (U+2028, NEL, form feed) stand inside texts, JSON strings among them, and end none."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decode_text(content: bytes, place: str) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises UserError, which begins with `place`, for another encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "is UTF-16" if content.startswith(UTF_16) else f"is not UTF-8 (byte {error.start})"
        raise UserError(f"{place}: {kind}; expected it saved as UTF-8") from error


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends; a line end at the end of the text begins no line."""
    lines = LINE_END.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def read_text(path: Path, place: str) -> str:
    """A file's text. Raises UserError, which begins with `place`, where it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror})") from error
    return decode_text(content, place)


def is_text(value: object) -> bool:
    """Whether a value is text that says something and can be written: half of a pair of code units, as of a cut emoji, cannot."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_lines(text: str, place: str, expected: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines text, each with its place; blank lines are none. Raises UserError for a line that is no object."""
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}, line {number}: is not JSON; {expected}") from error
        if not isinstance(value, dict):
            raise UserError(f"{place}, line {number}: is {type(value).__name__}; {expected}")
        yield f"{place}, line {number}", value


def csv_lines(text: str, place: str, expected: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV text with a head, each with its place, by the names of the columns. Raises UserError for a row of other columns."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{place}, line {reader.line_num}: has not the {len(reader.fieldnames or ())} columns of the first; {expected}"
                )
            yield f"{place}, line {reader.line_num}", row
    except csv.Error as error:
        raise UserError(f"{place}, line {reader.line_num}: is not CSV ({error}); {expected}") from error
