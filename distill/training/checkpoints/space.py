"""Checks of a run's folder before anything is computed: it can be written, and its checkpoints have room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from distill.config.errors import UserError
from distill.networks.folder import checkpoints, newest_checkpoint
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.training.settings import RunConfig
from distill.training.task import Task

GIB = 2**30
BYTES_OF_MEANS, BYTES_OF_8BIT_MEANS = 8, 2
"""Bytes of an optimiser's two running means for each parameter."""


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or that cannot be made where it should be."""
    existing = _existing(folder)
    if not existing.is_dir():
        raise UserError(f"run_dir: {folder} cannot be made ({existing} is no folder)")
    if not os.access(existing, os.W_OK | os.X_OK):
        state = "cannot be written to" if existing == folder else f"cannot be made in {existing}"
        raise UserError(f"run_dir: {folder} {state}")


def check_space(run_dir: Path) -> None:
    """Refuse to continue a run where there is no room for a checkpoint as large as its newest one."""
    newest = newest_checkpoint(run_dir)
    if newest is not None:
        size = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
        _require(run_dir, size, 1)


def check_space_for(config: RunConfig, task: Task, processes: Processes) -> None:
    """Refuse a run whose checkpoints have no room: a new one is written before an old one is removed.

    All processes call it. A checkpoint holds the networks, the running means of their optimisers and, once
    more, the network that users load, which is not counted here.
    """
    count = min(config.keep_checkpoints + 1, -(-config.steps // config.checkpoint_every))
    with raised_by_all(processes):
        if processes.is_main:
            missing = max(1, count - len(checkpoints(config.run_dir)))
            _require(config.run_dir, _size(task), missing)


def _size(task: Task) -> int:
    """Return the bytes of a checkpoint at least."""
    averages = task.ema.saved_modules() or {"model": task.ema.average}
    held = [
        tensor for module in {**task.modules, **averages}.values() for tensor in module.state_dict().values()
    ]
    size = sum(tensor.numel() * tensor.element_size() for tensor in held)
    for updater in task.updaters.values():
        width = BYTES_OF_8BIT_MEANS if updater.settings.is_8bit else BYTES_OF_MEANS
        size += width * sum(parameter.numel() for parameter in updater.parameters)
    return size


def _require(run_dir: Path, size: int, count: int) -> None:
    free = shutil.disk_usage(_existing(run_dir)).free
    if free < count * size:
        held = f"{count} checkpoints take" if count > 1 else "a checkpoint takes"
        raise UserError(
            f"run_dir: {run_dir} has {free / GIB:.3g} GiB of free disk, and {held} "
            f"{count * size / GIB:.3g} GiB or more; expected more room, fewer keep_checkpoints or another "
            "run_dir"
        )


def _existing(folder: Path) -> Path:
    """Return the folder, or what there is of the path to it."""
    real = Path(os.path.abspath(folder))
    return next(place for place in (real, *real.parents) if place.exists())
