"""Load a checkpoint, which any number of processes may have written: each reads the rows that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.errors import UserError, reading
from distill.networks.folder import PROGRESS
from distill.storage.files import read_mapping
from distill.storage.shards import SavedTensors
from distill.storage.tensors import check_shapes
from distill.training.checkpoints.state import OPTIMIZER, Restorable, module_parts
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import row_range


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], updaters: Mapping[str, Restorable], processes: Processes
) -> dict[str, Any]:
    """Restore the state of training, and return its progress. Its files must have been checked before."""
    with raised_by_all(processes):
        for name, module in modules.items():
            _load_module(module, SavedTensors(path, name), processes)
        for name, updater in updaters.items():
            _load_updater(updater, SavedTensors(path, OPTIMIZER.format(name)), processes)
        return read_mapping(path / PROGRESS)


@torch.no_grad()
def _load_module(module: nn.Module, saved: SavedTensors, processes: Processes) -> None:
    check_shapes(module, {name: saved.shape(name) for name in saved.names}, saved.path)
    for name, part in module_parts(module).items():
        part.tensor.copy_(_read(saved, name, part.rows_of, processes))


def _load_updater(updater: Restorable, saved: SavedTensors, processes: Processes) -> None:
    tensors: dict[str, Tensor] = {}
    for name in saved.names:
        shape = saved.shape(name)
        with reading(saved.path):
            part = updater.state_part(name, torch.empty(shape, device="meta"))
        if part.is_bound or saved.is_bound(name):
            _check_bound(saved, name, part.is_bound, processes)
            tensors[name] = saved.bound(name, processes.shard_index)
            continue
        if part.rows_of is not None and shape != tuple(part.rows_of.shape):
            raise UserError(f"{saved.path}: {name} is {shape}; expected {tuple(part.rows_of.shape)}")
        tensors[name] = _read(saved, name, part.rows_of, processes)
    updater.restore(tensors)


def _read(saved: SavedTensors, name: str, rows_of: Tensor | None, processes: Processes) -> Tensor:
    """Read a tensor, or this process's rows of it."""
    if rows_of is None:
        return saved.whole(name)
    return saved.rows(name, row_range(len(rows_of), processes.shard_index, processes.shards))


def _check_bound(saved: SavedTensors, name: str, is_bound: bool, processes: Processes) -> None:
    """Check that there are as many shards as there were, where a state goes with its shard alone."""
    if is_bound == saved.is_bound(name) and saved.shards == processes.shards:
        return
    before = f"{saved.shards} processes" if saved.is_bound(name) else "1 process"
    raise UserError(
        f"{saved.path}: states of 8 bits cannot be divided anew; expected {before} for each copy of the "
        f"networks as before, found {processes.shards}"
    )
