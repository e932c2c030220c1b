"""Checkpoints are saved and loaded, the newest ones are kept, and a damaged one is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.folder import MANIFEST, checkpoints, newest_checkpoint
from distill.storage.files import read_mapping, write_json
from distill.storage.tensors import file_sha256
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes


def save(run_dir: Path, step: int, network: nn.Module, updater: Updater) -> Path:
    """Save a checkpoint, and keep the two newest."""
    return save_checkpoint(
        run_dir,
        step,
        {"net": network},
        {"net": updater},
        {"seconds": 1.5},
        lambda folder: write_json(folder / "config.json", {}),
        keep=2,
    )


def trained() -> tuple[nn.Module, Updater]:
    """Return a network after one update."""
    network = nn.Linear(2, 4)
    updater = Updater("net", network, OptimizerSettings(lr=0.1), 10, Processes(torch.device("cpu")))
    network(torch.randn(5, 2)).square().sum().backward()
    updater.update(0)
    return network, updater


def test_a_checkpoint_brings_back_weights_and_optimiser(tmp_path: Path) -> None:
    network, updater = trained()
    path = save(tmp_path, 7, network, updater)
    other, its_updater = trained()
    assert load_checkpoint(path, {"net": other}, {"net": its_updater}) == {"step": 7, "seconds": 1.5}
    for before, after in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(before, after)
    state, its_state = updater.state_tensors(), its_updater.state_tensors()
    assert set(state) == {f"{index}.{key}" for index in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")}
    for name, value in state.items():
        assert torch.equal(value, its_state[name])


def test_the_manifest_has_the_hash_of_every_other_file(tmp_path: Path) -> None:
    path = save(tmp_path, 7, *trained())
    manifest = read_mapping(path / MANIFEST)
    others = sorted(file.name for file in path.iterdir() if file.name != MANIFEST)
    assert others == ["config.json", "net.optimizer.safetensors", "net.safetensors", "progress.json"]
    assert list(manifest) == others
    assert manifest == {name: file_sha256(path / name) for name in others}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    network, updater = trained()
    for step in (5, 100, 20):
        save(tmp_path, step, network, updater)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020", "step-00000100"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000100"
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda file: file.write_bytes(b"x"), "is damaged"), (lambda file: file.unlink(), "is missing")],
)
def test_a_damaged_checkpoint_is_refused_before_anything_is_loaded(
    tmp_path: Path, damage, message: str
) -> None:
    path = save(tmp_path, 7, *trained())
    damage(path / "net.optimizer.safetensors")
    other, its_updater = trained()
    before = [parameter.clone() for parameter in other.parameters()]
    with pytest.raises(UserError, match=f"net.optimizer.safetensors: {message}; remove"):
        load_checkpoint(path, {"net": other}, {"net": its_updater})
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
