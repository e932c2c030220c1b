"""Checkpoints are saved and loaded, the newest ones are kept, and a damaged one is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.folder import checkpoints, newest_checkpoint
from distill.storage.files import write_json
from distill.training.checkpoint import load_checkpoint, save_checkpoint


def save(run_dir: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Save a checkpoint, and keep the two newest."""
    return save_checkpoint(
        run_dir,
        step,
        {"net": network},
        {"net": optimizer},
        {"seconds": 1.5},
        lambda folder: write_json(folder / "config.json", {}),
        keep=2,
    )


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network after one step of its optimiser."""
    network = nn.Linear(2, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.randn(5, 2)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def test_a_checkpoint_brings_back_weights_and_optimiser(tmp_path: Path) -> None:
    network, optimizer = trained()
    path = save(tmp_path, 7, network, optimizer)
    other, its_optimizer = trained()
    assert load_checkpoint(path, {"net": other}, {"net": its_optimizer}) == {"step": 7, "seconds": 1.5}
    for before, after in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(before, after)
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, its_optimizer.state_dict()["state"][index][key])


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    network, optimizer = trained()
    for step in (5, 100, 20):
        save(tmp_path, step, network, optimizer)
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
    network, optimizer = trained()
    path = save(tmp_path, 7, network, optimizer)
    damage(path / "net.optimizer.safetensors")
    other, its_optimizer = trained()
    before = [parameter.clone() for parameter in other.parameters()]
    with pytest.raises(UserError, match=f"net.optimizer.safetensors: {message}; remove"):
        load_checkpoint(path, {"net": other}, {"net": its_optimizer})
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
