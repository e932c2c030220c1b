"""Checkpoints: complete or absent folders of safetensors and JSON, with a manifest of hashes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from distill.config.errors import UserError
from distill.networks.folder import MANIFEST, PROGRESS, checkpoints
from distill.storage.files import new_folder, read_mapping, write_json
from distill.storage.tensors import file_sha256, load_tensors, load_weights, save_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Restorable(Protocol):
    """A part of training with state beside the weights of its network, such as an `Updater`."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_tensors` returned; the weights of its network are loaded before."""
        ...


def save_checkpoint(
    run_dir: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    updaters: Mapping[str, Restorable],
    progress: Mapping[str, Any],
    export: Callable[[Path], None],
    keep: int,
) -> Path:
    """Write the checkpoint after `step` steps, then remove all but the newest `keep` checkpoints.

    `export` writes the network that users load; `modules` and `updaters` hold the state of training.
    Files are hashed while the next ones are written.
    """
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    with new_folder(path) as folder, ThreadPoolExecutor() as pool:
        hashes: dict[str, Future[str]] = {}
        export(folder)
        _start_hashing(folder, hashes, pool)
        for name, module in modules.items():
            save_tensors(folder / f"{name}.safetensors", module.state_dict())
            _start_hashing(folder, hashes, pool)
        for name, updater in updaters.items():
            save_tensors(folder / f"{name}.optimizer.safetensors", updater.state_tensors())
            _start_hashing(folder, hashes, pool)
        write_json(folder / PROGRESS, {"step": step, **progress})
        _start_hashing(folder, hashes, pool)
        write_json(folder / MANIFEST, {name: hashes[name].result() for name in sorted(hashes)})
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], updaters: Mapping[str, Restorable]
) -> dict[str, Any]:
    """Restore the state of training, and return its progress."""
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    manifest = read_mapping(path / MANIFEST)
    expected_hashes = {PROGRESS: None, **manifest}
    files = [path / name for name in expected_hashes]
    with ThreadPoolExecutor() as pool:
        found_hashes = list(pool.map(_hash_if_there, files))
    for file, expected, found in zip(files, expected_hashes.values(), found_hashes, strict=True):
        if found is None or found != expected:
            state = "damaged" if file.is_file() else "missing"
            raise UserError(f"{file}: is {state}; remove {path} to continue from an earlier checkpoint")
    for name, module in modules.items():
        load_weights(module, path / f"{name}.safetensors")
    for name, updater in updaters.items():
        updater.restore(load_tensors(path / f"{name}.optimizer.safetensors"))
    return read_mapping(path / PROGRESS)


def _start_hashing(folder: Path, hashes: dict[str, Future[str]], pool: ThreadPoolExecutor) -> None:
    """Hash files that are new in the folder, in threads: each is complete, and hashing leaves Python free."""
    for file in folder.iterdir():
        if file.name not in hashes:
            hashes[file.name] = pool.submit(file_sha256, file)


def _hash_if_there(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() else None
