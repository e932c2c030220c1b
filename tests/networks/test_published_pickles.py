"""Files of networks and tensors are read the same from any pickle protocol and version of torch."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distill import load_teacher
from distill.config.errors import UserError
from distill.networks.edm.published import read_network
from distill.storage.pickles.reader import read_pickle
from tests.helpers.published_networks import EDM, EDM2, WRITERS, assert_same_network, written


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_read_from_any_device_and_type(
    dtype: torch.dtype, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are views of one storage, a parameter, and an empty tensor, all marked as on a GPU."""
    whole = torch.arange(6).to(dtype)
    values = {
        "whole": whole,
        "column": whole.reshape(2, 3)[:, 1],
        "transposed": whole.reshape(2, 3).T,
        "empty": whole[:0],
        "one": whole[3],
    }
    if dtype.is_floating_point:
        values["parameter"] = torch.nn.Parameter(whole.clone())
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(values, protocol))
    assert b"cuda:0" in (tmp_path / "x.pkl").read_bytes()
    read = read_pickle(tmp_path / "x.pkl")
    assert list(read) == list(values)
    for name, value in values.items():
        assert read[name].dtype == dtype
        assert read[name].device.type == "cpu"
        assert torch.equal(read[name], value.detach()), name


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("path", [EDM, EDM2], ids=["edm", "edm2"])
def test_networks_are_read_from_any_writer(path: Path, writer: str, tmp_path: Path) -> None:
    assert_same_network(written(read_pickle(path), tmp_path / "network.pkl", writer), path)


@pytest.mark.parametrize("writer", WRITERS)
def test_sets_arrays_numbers_and_bytes_are_read_from_any_writer(writer: str, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = {
        "set": {1, "a"},
        "none": set(),
        "array": array,
        "turned": array.T,
        "number": np.float64(0.1),
        "bytes": b"\x00\xff",
        "no bytes": b"",
    }
    WRITERS[writer](values, tmp_path / "x.pkl")
    read = read_pickle(tmp_path / "x.pkl")
    assert list(read) == list(values)
    for name in ("array", "turned"):
        assert np.array_equal(read.pop(name), values.pop(name))
    assert read == values


@pytest.mark.parametrize("writer", ["torch.save", "torch.save before 1.6"])
def test_tensors_are_read_from_torch_s_files(writer: str, tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    values = {
        "whole": whole,
        "column": whole.reshape(2, 3)[:, 1],
        "empty": whole[:0],
        "half": whole.half(),
        "random": torch.get_rng_state(),
    }
    WRITERS[writer](
        {**values, "parameter": torch.nn.Parameter(whole), "layers": torch.nn.ModuleDict()}, tmp_path / "x.pt"
    )
    read = read_pickle(tmp_path / "x.pt")
    for name, value in {**values, "parameter": whole}.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name
    assert read["layers"].class_name == "ModuleDict"


@pytest.mark.parametrize("writer", ["torch.save", "torch.save before 1.6"])
def test_a_training_state_of_edm_is_a_teacher(writer: str, tmp_path: Path) -> None:
    """EDM's `training-state-*.pt` holds the network in training under "net", beside the optimizer's state."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    state = {"net": read_pickle(EDM)["ema"], "optimizer_state": optimizer.state_dict()}
    path = written(state, tmp_path / "training-state-000001.pt", writer)
    assert_same_network(path, EDM)
    assert type(load_teacher(path)).__name__ == "EDMNetwork"


@pytest.mark.parametrize("writer", ["torch.save", "torch.save before 1.6"])
@pytest.mark.parametrize(
    ("contents", "where"),
    [
        ({"G_ema_state": {"model.out": torch.ones(2)}, "kimg": 3}, " under 'G_ema_state'"),
        ({"time_embed.0.weight": torch.ones(2)}, ""),
    ],
)
def test_a_file_of_weights_only_is_refused(contents: dict, where: str, writer: str, tmp_path: Path) -> None:
    """Examples are SiD's training states, and OpenAI's files of ADM."""
    path = tmp_path / "training-state-000001.pt"
    WRITERS[writer](contents, path)
    with pytest.raises(UserError) as error:
        read_network(path)
    expected = "without the network's class and sizes; expected a snapshot with a network under 'ema'"
    assert str(error.value) == f"{path}: holds weights alone{where}, {expected}"
