"""Checkpoints: complete or absent folders of safetensors and JSON, with a manifest of hashes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError
from distill.networks.folder import MANIFEST, PROGRESS, checkpoints
from distill.storage.files import new_folder, read_mapping, write_json
from distill.storage.tensors import file_sha256, load_tensors, load_weights, save_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def save_checkpoint(
    run_dir: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    progress: Mapping[str, Any],
    export: Callable[[Path], None],
    keep: int,
) -> Path:
    """Write the checkpoint after `step` steps, then remove all but the newest `keep` checkpoints.

    `export` writes the network that users load; `modules` and `optimizers` hold the state of training.
    """
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    with new_folder(path) as folder:
        export(folder)
        for name, module in modules.items():
            save_tensors(folder / f"{name}.safetensors", module.state_dict())
        for name, optimizer in optimizers.items():
            save_tensors(folder / f"{name}.optimizer.safetensors", optimizer_tensors(optimizer))
        write_json(folder / PROGRESS, {"step": step, **progress})
        hashes = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / MANIFEST, hashes)
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> dict[str, Any]:
    """Restore the state of training, and return its progress."""
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    manifest = read_mapping(path / MANIFEST)
    for name, expected in {PROGRESS: None, **manifest}.items():
        file = path / name
        if not file.is_file() or file_sha256(file) != expected:
            state = "damaged" if file.is_file() else "missing"
            raise UserError(f"{file}: is {state}; remove {path} to continue from an earlier checkpoint")
    for name, module in modules.items():
        load_weights(module, path / f"{name}.safetensors")
    for name, optimizer in optimizers.items():
        restore_optimizer(optimizer, load_tensors(path / f"{name}.optimizer.safetensors"))
    return read_mapping(path / PROGRESS)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as flat tensors, such as `3.exp_avg` for the fourth parameter."""
    return {
        f"{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state from flat tensors; its hyper-parameters stay those of the configuration."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
