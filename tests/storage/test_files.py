"""Files are whole or absent, and what is broken is named."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.folder import checkpoints, newest_checkpoint
from distill.storage.files import (
    check_new_folder,
    new_file,
    new_folder,
    read_json,
    remove_unfinished,
    write_json,
)
from distill.storage.tensors import load_tensors, load_weights, save_tensors
from distill.training.checkpoint import load_checkpoint, save_checkpoint


def test_a_folder_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("new")
        raise RuntimeError("interrupted")
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(RuntimeError), new_file(tmp_path / "x") as partial:
        partial.write_text("new")
        raise RuntimeError("interrupted")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with new_folder(tmp_path / "x") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["b"]


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real.txt")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
    with new_file(tmp_path / "file") as partial:
        partial.write_text("y")
    assert ((tmp_path / "real" / "a").read_text(), (tmp_path / "real.txt").read_text()) == ("x", "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "real", "real.txt"]
    assert (tmp_path / "folder").is_symlink()


def test_a_place_that_no_folder_can_take_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path / "x" / "y")
    check_new_folder(Path("new/and/newer"), "--out")
    for place in (Path(), tmp_path / "x"):
        with pytest.raises(
            UserError, match=rf"^--out {place}: is the folder that this runs in; expected another"
        ):
            check_new_folder(place, "--out")
    with pytest.raises(UserError, match=rf"^--out {tmp_path}/file/a: cannot be made in {tmp_path}/file$"):
        check_new_folder(tmp_path / "file" / "a", "--out")


@pytest.mark.parametrize(("content", "message"), [(b"{", "is not JSON"), (None, "cannot be read")])
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(("content", "message"), [(b"nonsense", "is broken"), (None, "no such file")])
def test_a_broken_weight_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(3, 4), r"weight is \(4, 3\); expected \(4, 2\)"),
        (nn.Linear(2, 4, bias=False), r"bias is nothing; expected \(4,\)"),
        (nn.Sequential(nn.Linear(2, 4)), r"weight is nothing"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path: Path, other: nn.Module, message: str) -> None:
    save_tensors(tmp_path / "x.safetensors", other.state_dict())
    with pytest.raises(UserError, match=message):
        load_weights(nn.Linear(2, 4), tmp_path / "x.safetensors")


def test_weights_with_something_more_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", nn.Linear(2, 4).state_dict())
    with pytest.raises(UserError, match="it has bias, which the network has not"):
        load_weights(nn.Linear(2, 4, bias=False), tmp_path / "x.safetensors")


def save(
    run_dir: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, keep: int = 2
) -> Path:
    return save_checkpoint(
        run_dir,
        step,
        {"net": network},
        {"net": optimizer},
        {"seconds": 1.5},
        lambda folder: write_json(folder / "config.json", {}),
        keep,
    )


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
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


HOST = socket.gethostname()
KILLED = """
import os, sys
from pathlib import Path
from distill.storage.files import new_file, new_folder

with new_folder(Path(sys.argv[1]) / "step") as folder, new_file(Path(sys.argv[1]) / "x" / "shard") as partial:
    (folder / "weights").write_bytes(bytes(1000))
    partial.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_unfinished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -9
    assert len(list(tmp_path.rglob("*.partial"))) == 2
    for name in (
        ".hidden",
        f".mine.{HOST}.{os.getpid()}.partial",
        ".theirs.elsewhere.77.partial",
        "x.77.partial",
    ):
        (tmp_path / name).write_text("kept")
    assert [path.name.split(".")[1] for path in remove_unfinished(tmp_path)] == ["step", "shard"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        ".hidden", f".mine.{HOST}.{os.getpid()}.partial", ".theirs.elsewhere.77.partial", "x.77.partial",
    }  # fmt: skip


def test_what_another_machine_s_process_left_goes_once_it_is_old(tmp_path: Path) -> None:
    left = tmp_path / ".step.elsewhere.77.partial"
    left.mkdir()
    assert remove_unfinished(tmp_path) == []
    os.utime(left, (1, 1))
    assert remove_unfinished(tmp_path) == [left]


def test_a_folder_that_was_put_away_comes_back_where_its_successor_did_not_come(tmp_path: Path) -> None:
    """A kill between the two renamings of `new_folder`."""
    for name in ("export", "whole"):
        old = tmp_path / f".{name}.{HOST}.999999999.old"
        old.mkdir()
        (old / "weights").write_text("old")
    (tmp_path / "whole").mkdir()
    assert [path.name for path in remove_unfinished(tmp_path)] == [f".whole.{HOST}.999999999.old"]
    assert (tmp_path / "export" / "weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "whole"]
