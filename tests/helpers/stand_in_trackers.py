"""Packages of trackers in memory, which record what they are given."""

from __future__ import annotations

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@dataclasses.dataclass
class TrackedRun:
    """One run of one tracker: how it was opened, and what it was given."""

    tracker: str
    opened: dict[str, Any]
    logged: list[tuple[int, dict[str, Any]]] = dataclasses.field(default_factory=list)
    is_finished: bool = False

    def log(self, values: dict[str, Any], step: int) -> None:
        assert not self.is_finished
        self.logged.append((step, values))

    def finish(self) -> None:
        self.is_finished = True

    @property
    def numbers(self) -> dict[int, dict[str, float]]:
        """Numbers by step and name."""
        found: dict[int, dict[str, float]] = {}
        for step, values in self.logged:
            found.setdefault(step, {}).update(
                {name: value for name, value in values.items() if isinstance(value, float)}
            )
        return found

    @property
    def images(self) -> dict[str, Any]:
        """Images by name."""
        values = [item for _, logged in self.logged for item in logged.items()]
        return {name: value for name, value in values if not isinstance(value, float)}


def install(monkeypatch: pytest.MonkeyPatch) -> list[TrackedRun]:
    """Put stand-ins in the place of tensorboard, wandb and trackio; return the runs that they will have."""
    runs: list[TrackedRun] = []

    def init(tracker: str) -> Any:
        def open_run(**settings: Any) -> TrackedRun:
            runs.append(TrackedRun(tracker, settings))
            return runs[-1]

        return open_run

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.run = TrackedRun("tensorboard", {"folder": folder})
            runs.append(self.run)

        def add_text(self, name: str, text: str) -> None:
            self.run.opened[name] = text

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.run.log({name: value}, step)

        def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
            assert dataformats == "HWC"
            self.run.log({name: image.shape}, step)

        def close(self) -> None:
            self.run.finish()

    _install(monkeypatch, "tensorboard")
    _install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    for name in ("wandb", "trackio"):
        _install(monkeypatch, name, init=init(name), Image=lambda path: ("image", path))
    return runs


def _install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
