"""Read text files of any system: UTF-8, with or without a byte-order mark, with any line ending."""

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
"""Line endings of Windows, old Macs and Unix.

The other separators that Unicode names (U+2028, NEL, form feed) may stand inside texts, such as JSON strings,
and end no line.
"""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte-order marks of UTF-16."""


def decode_text(content: bytes, place: str) -> str:
    """Decode UTF-8 and drop its byte-order mark; an error message begins with `place`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "is UTF-16" if content.startswith(UTF_16) else f"is not UTF-8 (byte {error.start})"
        raise UserError(f"{place}: {kind}; expected it saved as UTF-8") from error


def split_lines(text: str) -> list[str]:
    """Split a text into lines without their endings; an ending that closes the text begins no new line."""
    lines = LINE_END.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def read_text(path: Path, place: str) -> str:
    """Read a UTF-8 file; an error message begins with `place`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror})") from error
    return decode_text(content, place)


def is_text(value: object) -> bool:
    """Return True for a string that is not blank and can be written as UTF-8.

    A lone surrogate, such as half of an emoji that was cut, cannot be written.
    """
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_lines(text: str, place: str, expected: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines text, each with its place for messages; blank lines are skipped.

    Messages begin with `place` and end with `expected`.
    """
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
    """Yield the rows of a CSV text by the column names of its first row, each with its place for messages.

    Messages begin with `place` and end with `expected`.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            line = f"{place}, line {reader.line_num}"
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise UserError(f"{line}: has not the {columns} columns of the first; {expected}")
            yield line, row
    except csv.Error as error:
        raise UserError(f"{place}, line {reader.line_num}: is not CSV ({error}); {expected}") from error
