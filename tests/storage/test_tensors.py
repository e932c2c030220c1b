"""Tensors on disk: a broken file, and weights of another network, are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.storage.tensors import load_tensors, load_weights, read_state, read_weights, save_tensors


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


def test_weights_with_one_more_entry_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", nn.Linear(2, 4).state_dict())
    with pytest.raises(UserError, match="it has bias, which the network has not"):
        load_weights(nn.Linear(2, 4, bias=False), tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"a cat\na dog\n", b"hello\n", b"0", b"", b"}\n", b"h\x05.", b"{}"])
def test_files_of_anything_else_are_no_weights(tmp_path: Path, content: bytes) -> None:
    """A pickle is read opcode by opcode, so that every text is a damaged pickle of its own kind."""
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth: holds no weights that torch wrote$"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pth", {"a": torch.ones(2)}),
        ("x.pth", {"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}),
        ("x.safetensors", {"a": torch.ones(2)}),
    ],
)
def test_weights_are_read_by_name_from_each_kind_of_file(
    tmp_path: Path, name: str, content: dict[str, Any]
) -> None:
    if name.endswith(".pth"):
        torch.save(content, tmp_path / name)
    else:
        save_tensors(tmp_path / name, content)
    state = read_state(tmp_path / name)
    assert {key: tensor.tolist() for key, tensor in state.items()} == {"a": [1, 1]}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (torch.ones(2), "Tensor"),
        ({"epoch": 3, "a": torch.ones(2)}, "dict"),
        ({}, "dict"),
        ({0: torch.ones(2)}, "dict"),
        ([torch.ones(2)], "list"),
    ],
)
def test_what_holds_other_things_than_weights_by_name_is_refused(
    tmp_path: Path, content: object, kind: str
) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"x\.pth: holds a {kind}; expected weights by name$"):
        read_state(tmp_path / "x.pth")


def test_tensors_that_cannot_be_written_raise_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        save_tensors(tmp_path, {"a": torch.zeros(3)})
