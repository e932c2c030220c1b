"""Make the first steps of a run by the product's own loop, and watch each of them.

Nothing is saved at the end, so that a run may have the steps of its preset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from accelerate.state import AcceleratorState

from distill.training.distillation.task import Distillation
from distill.training.launch import launch
from distill.training.settings import RunConfig

Update = Callable[[], Mapping[str, Any]]
Watch = Callable[[Distillation, int, Update], Mapping[str, Any]]
"""Called in place of each update with the task, the number of the step and the update; calls the update."""


class Enough(Exception):
    """Raised by a `Watch` to end the run."""


def make_steps(config: RunConfig, watch: Watch) -> None:
    """Launch a run and call `watch` in place of each update, until it raises `Enough`."""
    update = Distillation.update

    def watched(task: Distillation, step: int, detailed: bool) -> Mapping[str, Any]:
        return watch(task, step, lambda: update(task, step, detailed))

    # accelerate keeps the precision of the process's earlier run otherwise
    AcceleratorState._reset_state(reset_partial_state=True)
    with mock.patch.object(Distillation, "update", watched):
        try:
            code = launch(config)
        except Enough:
            return
    raise RuntimeError(f"the run ended with code {code} before its steps were watched")


@dataclasses.dataclass
class Phase:
    """The part of a step that runs now."""

    name: str = "other"

    @contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """Be in this part inside the block."""
        before = self.name
        self.name = name
        try:
            yield
        finally:
            self.name = before

    def around(self, owner: Any, method: str, name: str) -> None:
        """Make an object's method a part of this name."""
        original = getattr(owner, method)

        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.entered(name):
                return original(*args, **kwargs)

        setattr(owner, method, inside)
