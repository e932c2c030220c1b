"""Errors of libraries and of the file system become one line."""

from __future__ import annotations

import errno
import os

import pytest

from distill.config.errors import UserError, first_line, writing_to


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  first \nsecond"), "first "),
        (EOFError(), "EOFError"),
        (OSError(" \n"), "OSError"),
        (KeyError("split"), "has no 'split'"),
    ],
)
def test_an_error_is_shortened_to_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError("encoder error -2 when writing image file"), "encoder error -2 when writing image file"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason(error: OSError, reason: str) -> None:
    """Pillow's errors have no number."""
    with pytest.raises(UserError) as raised, writing_to("--out x:"):
        raise error
    assert str(raised.value) == f"--out x: cannot be written ({reason})"
