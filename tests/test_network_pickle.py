"""Published pickles become our networks.

`oracles/edm_tiny.pkl` (NCSN++, EDM's preconditioning) and `oracles/edm2_tiny.pkl` (of latents, in float16) were written by the published classes
and their `torch_utils.persistence`, with the weights of `seeded_weights`, in the dicts in which NVIDIA's training loops leave them. In place of the
classes' source they carry a line that would end the process.
"""

import pickle
from pathlib import Path

import pytest
import torch

from distill import load_teacher
from distill.errors import UserError
from distill.export import load_denoiser
from distill.network_pickle import read_network
from distill.pickle_reader import PickledObject, read_pickle
from distill.registry import choices, settings_of
from distill.teachers.convert.__main__ import main as convert
from distill.types import Condition
from tests.seeded_weights import normal, seeded_weights

ORACLES = Path(__file__).parent / "oracles"
EDM, EDM2 = ORACLES / "edm_tiny.pkl", ORACLES / "edm2_tiny.pkl"


def test_the_files_carry_source_that_would_be_noticed() -> None:
    for path in (EDM, EDM2):
        assert b'raise SystemExit("the source in this file was executed")' in path.read_bytes()


def test_an_edm_pickle_gives_its_network_and_weights() -> None:
    network = read_network(EDM)
    assert network.describe() == {
        "precond": {"class": "EDMPrecond", "sigma_data": 0.5},
        "model": {
            "class": "SongUNet",
            "resolution": 8,
            "channels": 3,
            "label_count": 5,
            "width": 8,
            "multipliers": (1, 2),
            "embedding_multiplier": 4,
            "blocks": 1,
            "attention": (4,),
            "dropout": 0.13,
            "augment_count": 9,
            "noise_embedding": "fourier",
            "noise_multiplier": 2,
            "encoder": "residual",
            "resample_filter": (1, 3, 3, 1),
        },
    }
    assert (network.image_shape, network.label_count, network.training) == ((3, 8, 8), 5, False)
    state = network.state_dict()
    for name, expected in seeded_weights(state).items():
        assert torch.equal(state[name], expected), name
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    assert torch.equal(state["model.enc.4x4_down.conv0.resample_filter"], torch.outer(taps, taps)[None, None])


def test_an_edm2_pickle_gives_its_network_and_weights_in_float32() -> None:
    network = read_network(EDM2)
    assert (network.image_shape, network.label_count, network.training) == ((4, 8, 8), 5, False)
    state = network.state_dict()
    for name, expected in seeded_weights(state).items():
        assert torch.equal(state[name], expected.half().float()), name
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_stands_beside_the_network_is_data() -> None:
    data = read_pickle(EDM2)
    assert data["dataset_kwargs"] == {"class_name": "training.dataset.ImageFolderDataset", "path": "x.zip", "use_labels": True}
    assert isinstance(data["encoder"], PickledObject)
    assert data["encoder"].class_name == "StabilityVAEEncoder"
    assert data["encoder"].state["vae_name"] == "stabilityai/sd-vae-ft-mse"
    torch.testing.assert_close(torch.from_numpy(data["encoder"].state["scale"]), 0.5 / torch.tensor([4.17, 4.62, 3.71, 3.28]))
    block = read_pickle(EDM)["ema"].state["_modules"]["model"].state["_modules"]["enc"].state["_modules"]["8x8_block0"]
    assert block.state["skip_scale"] == 0.5**0.5  # a NumPy number


@pytest.mark.parametrize("path", [EDM, EDM2], ids=["edm", "edm2"])
def test_a_converted_folder_predicts_as_the_pickle(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = read_network(path)
    convert([str(path), str(tmp_path / "out")])
    kind = type(network).__name__
    count = sum(parameter.numel() for parameter in network.parameters())
    size = "3x8x8" if path == EDM else "4x8x8"
    assert capsys.readouterr().out == f"{tmp_path}/out: {kind}, {count:,} parameters, images {size}, 5 labels\n"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    again = load_denoiser(tmp_path / "out").eval()
    x_t, t, cond = normal("x", (2, *network.image_shape)), torch.tensor([0.3, 5.0]), Condition(torch.tensor([1, 4]))
    with torch.no_grad():
        assert torch.equal(again(x_t, t, cond), network(x_t, t, cond))


def test_backends_open_pickles_and_folders(tmp_path: Path) -> None:
    convert([str(EDM), str(tmp_path / "out")])
    for name, path, kind in (("edm", EDM, "EDMNetwork"), ("edm", tmp_path / "out", "EDMNetwork"), ("edm2", EDM2, "EDM2Network")):
        teacher = load_teacher(settings_of("teachers", name).model_validate({"name": name, "path": path}))
        assert (type(teacher).__name__, teacher.training) == (kind, False)
    assert choices("teachers") == ["diffusers", "edm", "edm2", "gaussian_mixture", "native"]


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("edm", EDM2, f"{EDM2}: holds an EDM2Network; expected an EDMNetwork"),
        ("edm2", EDM, f"{EDM}: holds an EDMNetwork; expected an EDM2Network"),
        ("edm", Path("nowhere.pkl"), "nowhere.pkl: cannot be read (No such file or directory)"),
        ("edm", ORACLES, f"{ORACLES}: holds neither config.json nor an export nor a checkpoint"),
    ],
)
def test_a_path_to_another_network_or_none_is_refused(name: str, path: Path, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_teacher(settings_of("teachers", name).model_validate({"name": name, "path": path}))
    assert str(error.value) == message


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        convert([str(EDM), str(tmp_path)])
    assert str(error.value) == f"{tmp_path}: exists; expected a new folder"


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("channel_mult_noise", 1, "model.map_noise.freqs is (8,); expected (4,)"),
        ("num_blocks", 2, "model.enc.8x8_block1.norm0.weight is nothing; expected (8,)"),
        ("label_dim", 0, "it has model.map_label.weight, which the network has not"),
    ],
)
def test_weights_that_are_not_those_of_the_arguments_are_refused(argument: str, value: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_pickle(EDM)
    data["ema"].state["_init_kwargs"][argument] = value
    monkeypatch.setattr("distill.network_pickle.read_pickle", lambda path: data)
    with pytest.raises(UserError) as error:
        read_network(EDM)
    assert str(error.value) == f"{EDM}: weights of another architecture: {message}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_come_back_from_whatever_device_and_type(dtype: torch.dtype, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of one storage, a parameter, nothing at all; all of them said to have been on a GPU."""
    whole = torch.arange(6).to(dtype)
    values = {"whole": whole, "column": whole.reshape(2, 3)[:, 1], "transposed": whole.reshape(2, 3).T, "empty": whole[:0], "one": whole[3]}
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
