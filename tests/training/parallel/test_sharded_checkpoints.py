"""Checkpoints of sharded networks are written in parts, and any number of processes reads them."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distill.config.errors import UserError
from distill.networks.folder import MANIFEST, checkpoints, newest_checkpoint
from distill.storage.files import read_mapping
from distill.storage.shards import SavedTensors
from distill.storage.tensors import file_sha256
from distill.storage.unfinished import remove_unfinished
from distill.training.checkpoints.damage import Damage, newest_whole, require_whole
from tests.helpers import eight_bit_kernels
from tests.helpers.alone import ALONE
from tests.helpers.checkpoints_in_processes import (
    EIGHT_BIT,
    build,
    copy_on,
    different,
    run_in_processes,
    saved_tensors,
    start,
)

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that processes write to. Tests leave what is there as it is."""
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """Let two processes save `first` and continue from it, then fail to save for lack of space."""
    return run_in_processes(folder, "continue_exactly", "fill_the_disk", "compare_folders")


@pytest.fixture
def first(folder: Path, found: Found) -> Path:
    """Return the checkpoint of two processes."""
    return checkpoints(folder / "first")[-1]


def test_as_many_processes_continue_bit_for_bit(found: Found) -> None:
    """Weights in float32 and bfloat16 with masters, states of Adam and of 8 bits, average and buffers."""
    for index, of_one in enumerate(found):
        results = of_one["continue_exactly"]
        assert results["progress"] == {"step": 2, "seconds": 0.0}  # the first process's
        assert results["tensors"] > 90
        assert results["loaded"] == []
        assert results["continued"] == []
        assert results["rows"] == [2 - index, 2 - index]  # of three


def test_each_process_writes_its_rows(first: Path) -> None:
    shards = [f"shard-000{number}-of-0002.safetensors" for number in (1, 2)]
    names = {
        f"{name}{kind}.{shard}" for name in ("net", "half", EIGHT_BIT) for shard in shards for kind in KINDS
    }
    names |= {"model.safetensors", "small.safetensors", "progress.json", "manifest.json"}
    assert {file.name for file in first.iterdir()} == names
    one, two = (load_file(first / f"net.{shard}") for shard in shards)
    assert {name: tuple(tensor.shape) for name, tensor in one.items()} == {
        "inner.weight": (2, 4),
        "inner.bias": (2,),
        "outer.weight": (1, 3),
        "outer.bias": (1,),
        "adapter.weight": (3, 4),
        "gain": (),
        "count": (),
    }
    assert {name: tuple(tensor.shape) for name, tensor in two.items()} == {
        "inner.weight": (1, 4),
        "inner.bias": (1,),
        "outer.weight": (0, 3),
        "outer.bias": (0,),
    }
    with safe_open(first / f"net.{shards[1]}", "pt") as file:
        assert file.metadata()["rows"] == (
            '{"inner.weight": [2, 3], "inner.bias": [2, 3], "outer.weight": [1, 1], "outer.bias": [1, 1]}'
        )


KINDS = ("", ".optimizer")


def test_the_manifest_has_the_hashes_of_all_processes_files(first: Path) -> None:
    others = sorted(file.name for file in first.iterdir() if file.name != MANIFEST)
    assert read_mapping(first / MANIFEST) == {name: file_sha256(first / name) for name in others}


def test_one_process_reads_what_two_wrote(folder: Path, first: Path) -> None:
    assert copy_on(folder, ALONE, "first", "one") == {"mesh": None}
    one = newest_checkpoint(folder / "one")
    assert one is not None
    assert sorted(file.name for file in one.glob("net*")) == ["net.optimizer.safetensors", "net.safetensors"]
    whole = load_file(one / "net.safetensors")
    assert whole["inner.weight"].shape == (3, 4)
    assert whole["count"] == 0  # not the 7 of the networks that it was loaded into
    read, written = saved_tensors(one), saved_tensors(first)
    assert different(read, {name: written[name] for name in read}) == []
    assert {"net.optimizer:0.exp_avg", "half.optimizer:0.master", "model:gain"} <= read.keys()


def test_states_of_eight_bits_are_refused_by_another_number_of_processes(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight_bit_kernels.install(monkeypatch)
    with pytest.raises(
        UserError,
        match=r"eight.optimizer.shard-0001-of-0002.safetensors: states of 8 bits cannot be divided anew; "
        r"expected 2 processes for each copy of the networks as before, found 1$",
    ):
        build(ALONE, 7, eight_bit=True).load(first)


def test_rows_are_read_from_the_shards_that_have_them(first: Path, tmp_path: Path) -> None:
    weight = saved_tensors(first)["net:inner.weight"]
    saved = SavedTensors(first, "net")
    assert saved.shape("inner.weight") == (3, 4)
    for rows in (range(3), range(1, 3), range(1, 2), range(2, 3), range(3, 3)):
        assert torch.equal(saved.rows("inner.weight", rows), weight[rows.start : rows.stop])
    assert saved.rows("outer.weight", range(1, 1)).shape == (0, 3)
    shutil.copytree(first, tmp_path / "part")
    (tmp_path / "part" / "net.shard-0002-of-0002.safetensors").unlink()
    part = SavedTensors(tmp_path / "part", "net")
    assert torch.equal(part.rows("inner.weight", range(2)), weight[:2])
    with pytest.raises(UserError, match=r"net.shard-0002-of-0002.safetensors: no such file"):
        part.whole("inner.weight")


def test_weights_of_another_architecture_are_refused(first: Path) -> None:
    state = build(ALONE, 7)
    state.modules["net"] = torch.nn.Linear(4, 3)
    with pytest.raises(UserError, match=r"net.shard-0001-of-0002.safetensors: weights of another architectu"):
        state.load(first)


def test_all_processes_say_the_same_if_one_cannot_write(folder: Path, found: Found) -> None:
    run = folder / "full"
    message = (
        f"{run}/checkpoints/step-00000002: cannot be written (No space left on device); "
        "what was written before is kept"
    )
    assert [of_one["fill_the_disk"] for of_one in found] == [{"error": message}] * 2
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
    require_whole(run / "checkpoints" / "step-00000001", ALONE)


def test_a_folder_that_machines_do_not_share_is_refused(folder: Path, found: Found) -> None:
    message = (
        f"run_dir: {folder}/of-1 of process 1 is not the main process's; expected a folder that all machines "
        "share"
    )
    assert [of_one["compare_folders"] for of_one in found] == [{"refusal": message, "left": []}] * 2


@pytest.mark.parametrize(
    ("file", "state"),
    [
        ("half.shard-0002-of-0002.safetensors", "is damaged"),
        ("net.optimizer.shard-0001-of-0002.safetensors", "is missing"),
    ],
)
def test_a_run_continues_before_a_damaged_shard(first: Path, tmp_path: Path, file: str, state: str) -> None:
    older = with_damage(first, tmp_path, file, state)
    damaged = older.with_name("step-00000004")
    assert newest_whole(tmp_path, ALONE) == (older, [Damage(damaged, file, state)])


def with_damage(source: Path, run: Path, file: str, state: str) -> Path:
    """Copy a checkpoint to a run twice, damage a file of the newer copy, and return the older."""
    older, newer = (run / "checkpoints" / f"step-0000000{step}" for step in (2, 4))
    for copy in (older, newer):
        shutil.copytree(source, copy)
    content = (newer / file).read_bytes()
    if state == "is missing":
        (newer / file).unlink()
    else:
        (newer / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return older


@pytest.mark.slow
def test_any_number_of_processes_reads_what_any_other_wrote(folder: Path, first: Path) -> None:
    """2, 1, 2 and 4 processes, then two copies over 2 processes each, then one process again."""
    copy_on(folder, ALONE, "first", "alone")
    run_in_processes(folder, "copy_on:alone:two")
    found = run_in_processes(
        folder, "copy_on:two:four", "hybrid_copy_on:four:hybrid", "refuse_eight_bits", count=4
    )
    copy_on(folder, ALONE, "hybrid", "last")
    assert [of_one["hybrid_copy_on:four:hybrid"]["mesh"] for of_one in found] == [[2, 2]] * 4
    assert {of_one["refuse_eight_bits"]["refusal"].partition("expected ")[2] for of_one in found} == {
        "2 processes for each copy of the networks as before, found 4"
    }
    expected = saved_tensors(first)
    for run, shards in {"two": 2, "four": 4, "hybrid": 2, "last": 1}.items():
        path = newest_checkpoint(folder / run)
        assert path is not None
        assert len(list(path.glob("net.*"))) == 2 * shards
        read = saved_tensors(path)
        assert different(read, {name: expected[name] for name in read}) == []
    four = newest_checkpoint(folder / "four")
    assert four is not None
    lengths = [len(load_file(file)["inner.weight"]) for file in sorted(four.glob("net.shard*"))]
    assert lengths == [1, 1, 1, 0]


@pytest.mark.slow
def test_processes_share_the_search_for_damage(folder: Path, first: Path) -> None:
    file = "half.shard-0002-of-0002.safetensors"
    with_damage(first, folder / "damaged", file, "is damaged")
    found = [of_one["find_damage"] for of_one in run_in_processes(folder, "find_damage")]
    for of_one in found:
        assert of_one["found"] == "step-00000002"
        assert of_one["others"] == [["step-00000004", file, "is damaged"]]
    one, two = (of_one["read"] for of_one in found)
    files = {
        f"{path.parent.name}/{path.name}" for path in (folder / "damaged").rglob("*.*") if path.is_file()
    }
    assert set(one) | set(two) == {name for name in files if not name.endswith(MANIFEST)}
    assert not set(one) & set(two)
    assert abs(len(one) - len(two)) <= 2


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_the_checkpoint_before(folder: Path) -> None:
    """The first process makes the folder; the other writes into it."""
    run = folder / "killed"
    for saved, victim in enumerate((1, 0), start=1):
        done = start(folder, f"kill_one:{victim}")
        assert "Signal 9 (SIGKILL)" in done.stderr
        assert [path.name for path in checkpoints(run)] == [
            f"step-0000000{step}" for step in range(1, saved + 1)
        ]
        newest = checkpoints(run)[-1]
        assert newest_whole(run, ALONE) == (newest, [])
    (left,) = (run / "checkpoints").glob(".*")
    assert left.name.startswith(f".step-00000099.{socket.gethostname()}.")
    assert (left / "net.shard-0001-of-0002.safetensors").is_file()
    assert remove_unfinished(run) == [left]
    copy_on(folder, ALONE, "killed", "after")
    assert newest_checkpoint(folder / "after") is not None
