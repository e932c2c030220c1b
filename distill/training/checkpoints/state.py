"""The state of a run as named tensors, and what a process holds of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from distill.training.optimization.updater import StatePart
from distill.training.parallel.shards import is_sharded, local

OPTIMIZER = "{}.optimizer"
"""Name of the files of an optimiser's state, for the name of its network."""


@runtime_checkable
class Restorable(Protocol):
    """A part of training with state beside the weights of its network, such as an `Updater`."""

    def state_parts(self) -> dict[str, StatePart]:
        """Return by name what this process holds of the state."""
        ...

    def state_part(self, name: str, tensor: Tensor) -> StatePart:
        """Tell how processes share a saved tensor of this name; it is whole, and without values."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_parts` returned; the weights of its network are loaded before."""
        ...


def module_parts(module: nn.Module) -> dict[str, StatePart]:
    """Return by name what this process holds of a module's weights and buffers."""
    return {
        name: StatePart(local(tensor), rows_of=tensor if is_sharded(tensor) else None)
        for name, tensor in module.state_dict().items()
    }
