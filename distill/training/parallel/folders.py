"""Folders that all processes fill together, and that are complete or absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distill.config.errors import TrainingError
from distill.storage.files import new_folder
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes


@contextmanager
def new_shared_folder(path: Path, processes: Processes) -> Iterator[Path]:
    """Yield a temporary folder for all processes to fill. It replaces `path` when the block has no error.

    The main process makes, renames and removes it. An error must leave the block on all processes, as those
    of `raised_by_all` do.
    """
    with ExitStack() as stack:
        folder: Path | None = None
        with raised_by_all(processes), writing(path):
            if processes.is_main:
                folder = stack.enter_context(new_folder(path))
        folder = processes.main_object(folder)
        assert folder is not None
        yield folder
        with raised_by_all(processes), writing(path):
            stack.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a TrainingError that names what was to be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainingError(
            f"{path}: cannot be written ({reason}); what was written before is kept"
        ) from error
