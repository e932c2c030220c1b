"""Errors of one process that end all of them in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distill.config.errors import TrainingError, UserError
from distill.training.parallel.processes import Processes


@contextmanager
def raised_by_all(processes: Processes) -> Iterator[None]:
    """Let an error that ends the block on one process end it on all of them, with the same message.

    All processes must enter the block. Nothing in it may communicate, because a process that fails would
    leave the others waiting there. If several fail, the error of the first of them is raised.
    """
    error: UserError | TrainingError | None = None
    try:
        yield
    except (UserError, TrainingError) as raised:
        error = raised
    for raised_there in processes.gather_objects(error):
        if raised_there is not None:
            raise raised_there
