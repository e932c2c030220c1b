"""A disk without space."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

import pytest


def fail_for_lack_of_space(*arguments: object) -> NoReturn:
    """Raise what a full disk raises."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that `new_file` or `new_folder` writes fail when it is flushed."""
    monkeypatch.setattr("distill.storage.files.flush", fail_for_lack_of_space)
