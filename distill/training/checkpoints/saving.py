"""Save a checkpoint: each process writes and hashes what it alone holds, the main process everything else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn

from distill.networks.folder import MANIFEST, PROGRESS, checkpoints
from distill.storage.files import flush, write_json
from distill.storage.shards import save_shard, shard_path, whole_path
from distill.storage.tensors import file_sha256, save_tensors
from distill.storage.unfinished import remove_unfinished
from distill.training.checkpoints.state import OPTIMIZER, Restorable, module_parts
from distill.training.optimization.updater import StatePart
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.folders import new_shared_folder, writing
from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import row_range


def save_checkpoint(
    run_dir: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    updaters: Mapping[str, Restorable],
    progress: Mapping[str, Any],
    export: Callable[[Path], None],
    keep: int,
    processes: Processes,
) -> Path:
    """Write the checkpoint after `step` steps, then remove all but the newest `keep` checkpoints.

    All processes call it, and all call `export`, which lets the main process write the network that users
    load. `modules` and `updaters` hold the state of training, and `progress` is the main process's. Files are
    hashed while the next ones are written.
    """
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    with new_shared_folder(path, processes) as folder:
        with ThreadPoolExecutor() as pool:
            files = _Files(folder, processes, pool)
            files.write_export(export)
            with raised_by_all(processes), writing(path):
                files.write_state(modules, updaters)
                own_hashes = files.hashes()
        # Each process hashed its own files, which no other reads.
        manifest = {
            name: value for own in processes.gather_objects(own_hashes) for name, value in own.items()
        }
        with raised_by_all(processes), writing(path):
            if processes.is_main:
                write_json(folder / PROGRESS, {"step": step, **progress})
                manifest[PROGRESS] = file_sha256(folder / PROGRESS)
                write_json(folder / MANIFEST, dict(sorted(manifest.items())))
    with raised_by_all(processes), writing(path.parent):
        if processes.is_main:
            _remove_old(run_dir, keep)
    return path


class _Files:
    """The files of one process in the folder of a checkpoint, hashed in threads.

    Each is complete when its hashing begins, and hashing leaves Python free.
    """

    def __init__(self, folder: Path, processes: Processes, pool: ThreadPoolExecutor) -> None:
        self.folder, self.processes, self.pool = folder, processes, pool
        self._hashes: dict[str, Future[str]] = {}

    def write_export(self, export: Callable[[Path], None]) -> None:
        """Write the network that users load, which all processes may have to gather."""
        with raised_by_all(self.processes), writing(self.folder):
            export(self.folder)
            if self.processes.is_main:  # the others have written nothing yet
                for file in sorted(self.folder.iterdir()):
                    self._hash(file)

    def write_state(self, modules: Mapping[str, nn.Module], updaters: Mapping[str, Restorable]) -> None:
        """Write this process's part of the state of training."""
        for name, module in modules.items():
            self._write(name, module_parts(module))
        for name, updater in updaters.items():
            self._write(OPTIMIZER.format(name), updater.state_parts())

    def hashes(self) -> dict[str, str]:
        """Return the hash of each file of this process by its name."""
        return {name: future.result() for name, future in self._hashes.items()}

    def _write(self, name: str, parts: Mapping[str, StatePart]) -> None:
        """Write tensors into one file if all processes hold the same, else this process's shard of them."""
        if not any(_is_split(part) for part in parts.values()):
            if self.processes.is_main:
                file = whole_path(self.folder, name)
                save_tensors(file, {key: part.tensor for key, part in parts.items()})
                self._hash(file)
        elif self.processes.writes_shards:
            self._hash(self._write_shard(name, parts))

    def _write_shard(self, name: str, parts: Mapping[str, StatePart]) -> Path:
        index, count = self.processes.shard_index, self.processes.shards
        file = shard_path(self.folder, name, index, count)
        kept = {key: part for key, part in parts.items() if index == 0 or _is_split(part)}
        rows: dict[str, tuple[int, int]] = {}
        for key, part in kept.items():
            if part.rows_of is not None:
                whole = len(part.rows_of)
                own = row_range(whole, index, count)
                if len(part.tensor) != len(own):
                    raise ValueError(f"{name}: {key} has {len(part.tensor)} rows; expected {len(own)}")
                rows[key] = (own.start, whole)
        bound = [key for key, part in kept.items() if part.is_bound]
        save_shard(file, {key: part.tensor for key, part in kept.items()}, rows, bound)
        return file

    def _hash(self, file: Path) -> None:
        self._hashes[file.name] = self.pool.submit(_flush_and_hash, file)


def _is_split(part: StatePart) -> bool:
    """Tell whether processes hold different values of a tensor."""
    return part.rows_of is not None or part.is_bound


def _flush_and_hash(file: Path) -> str:
    flush(file)
    return file_sha256(file)


def _remove_old(run_dir: Path, keep: int) -> None:
    """Remove old checkpoints, and what a run on another machine left unfinished."""
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    remove_unfinished(run_dir / "checkpoints")
