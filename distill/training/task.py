"""The interface between the loop of a run and what it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from distill.training.optimization.ema import EMAs
from distill.training.optimization.updater import Updater
from distill.training.parallel.finite import FiniteCheck


@runtime_checkable
class Task(Protocol):
    """The part of a run that the trainer does not know: how to make a step, and what to save."""

    modules: dict[str, nn.Module]
    """Everything that checkpoints hold by name, in addition to the averages and the optimisers."""
    updaters: dict[str, Updater]
    ema: EMAs[Any]
    finite: FiniteCheck
    """Holds the losses and gradient norms of each step."""
    image_shape: tuple[int, ...]
    """Shape of the images that `sample` returns."""
    label_count: int

    def start(self, step: int) -> None:
        """Prepare the batches from this step on."""
        ...

    def update(self, step: int, detailed: bool) -> Mapping[str, Tensor]:
        """Make one step and return its metrics; `detailed` adds those that cost time."""
        ...

    def sample(self, rows: Sequence[int]) -> Tensor:
        """Return the images of these numbers, of the averaged network, on the CPU.

        Image i depends on its own number alone. Sharded networks compute on all processes at once, which then
        call this with equally many numbers.
        """
        ...

    def preview(self, rows: Sequence[int]) -> Tensor:
        """Return the images of these numbers as `sample` does, of the seeds and conditions to show."""
        ...

    @property
    def preview_conditions(self) -> int:
        """Number of labels or prompts that they have in turn; 0 if they do not."""
        ...

    def save(self, folder: Path) -> None:
        """Write the averaged network for a checkpoint."""
        ...

    def export(self, folder: Path) -> None:
        """Write the averaged network for others to use."""
        ...

    def tables(self) -> dict[str, Any]:
        """Return the JSON files for the report, by name; they are written with each checkpoint."""
        ...

    def frozen_networks(self) -> list[nn.Module]:
        """Return the networks that take memory and are not trained."""
        ...
