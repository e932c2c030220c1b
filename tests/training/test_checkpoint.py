"""Checkpoints are saved and loaded, the newest ones are kept, and a damaged one is refused."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.config.errors import TrainingError, UserError
from distill.networks.folder import MANIFEST, checkpoints, newest_checkpoint
from distill.storage.files import read_mapping, write_json
from distill.storage.tensors import file_sha256
from distill.training.checkpoints import load_checkpoint, save_checkpoint
from distill.training.checkpoints.damage import Damage, newest_whole, require_whole, set_aside
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from tests.helpers.alone import ALONE


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
        processes=ALONE,
    )


def trained() -> tuple[nn.Module, Updater]:
    """Return a network after one update."""
    network = nn.Linear(2, 4)
    updater = Updater("net", network, OptimizerSettings(lr=0.1), 10, ALONE)
    network(torch.randn(5, 2)).square().sum().backward()
    updater.update(0)
    return network, updater


def test_a_checkpoint_brings_back_weights_and_optimiser(tmp_path: Path) -> None:
    network, updater = trained()
    path = save(tmp_path, 7, network, updater)
    other, its_updater = trained()
    assert load_checkpoint(path, {"net": other}, {"net": its_updater}, ALONE) == {"step": 7, "seconds": 1.5}
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


def damaged(path: Path, file: str = "net.safetensors") -> None:
    """Change the last byte of a checkpoint's file."""
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: damaged(path, "net.optimizer.safetensors"), "net.optimizer.safetensors: is damaged"),
        (lambda path: (path / "net.safetensors").unlink(), "net.safetensors: is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json: is not JSON .*"),
        (lambda path: (path / MANIFEST).unlink(), "manifest.json: cannot be read .*"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = save(tmp_path, 7, *trained())
    require_whole(path, ALONE)
    damage(path)
    with pytest.raises(UserError, match=f"^{path}/{message}; remove {path} to continue from an earlier"):
        require_whole(path, ALONE)


def test_the_newest_checkpoint_without_damage_is_found(tmp_path: Path) -> None:
    first = save(tmp_path, 7, *trained())
    second = save(tmp_path, 9, *trained())
    assert newest_whole(tmp_path, ALONE) == (second, [])
    damaged(second)
    found, others = newest_whole(tmp_path, ALONE)
    assert (found, others) == (first, [Damage(second, "net.safetensors", "is damaged")])
    assert newest_whole(tmp_path / "nowhere", ALONE) == (None, [])


def test_a_run_with_nothing_but_damaged_checkpoints_is_refused(tmp_path: Path) -> None:
    for step in (7, 9):
        damaged(save(tmp_path, step, *trained()))
    with pytest.raises(
        UserError,
        match=r"step-00000009/net.safetensors: is damaged, and there is no whole checkpoint before it; "
        rf"remove {tmp_path}/checkpoints to start from the first step$",
    ):
        newest_whole(tmp_path, ALONE)


def test_damaged_checkpoints_are_set_aside_and_never_removed(tmp_path: Path) -> None:
    """They do not count among those to keep."""
    names = []
    for step in (1, 2, 2, 3, 4):
        path = save(tmp_path, step, *trained())
        if step == 2:
            names.append(set_aside(path, "damaged").name)
    assert names == ["step-00000002.damaged", "step-00000002.damaged-2"]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    assert all((tmp_path / "checkpoints" / name / MANIFEST).is_file() for name in names)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, updater = trained()
    save(tmp_path, 7, network, updater)

    def fill_the_disk(file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr("distill.training.checkpoints.saving.flush", fill_the_disk)
    with pytest.raises(
        TrainingError,
        match=r"step-00000008: cannot be written \(No space left on device\); what was written before is ",
    ):
        save(tmp_path, 8, network, updater)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000007"]


def test_a_checkpoint_removes_what_a_dead_run_of_another_machine_left(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000003.elsewhere.123.partial"
    left.mkdir(parents=True)
    (left / "net.safetensors").write_bytes(bytes(10))
    save(tmp_path, 7, *trained())
    assert left.is_dir()  # it may still be written
    for path in (left / "net.safetensors", left):
        os.utime(path, (0, 0))
    save(tmp_path, 8, *trained())
    assert not left.exists()
