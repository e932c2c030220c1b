"""Published pickles become our networks.

`oracles/edm_tiny.pkl` (NCSN++, EDM's preconditioning) and `oracles/edm2_tiny.pkl` (latent, in float16) were
written by the published classes and their `torch_utils.persistence`, with the weights of `seeded_weights`, in
the dicts in which NVIDIA's training loops save them. In place of the classes' source they carry a line that
would end the process.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from distill import load_generator, load_teacher
from distill.config.errors import UserError
from distill.config.settings import Choice
from distill.networks.edm.arguments import describe_network
from distill.networks.edm.published import read_network
from distill.networks.folder import load_denoiser
from distill.publishing.convert import main as convert
from distill.storage.pickles.reader import PickledObject, read_pickle
from distill.types import Condition
from tests.helpers.full_disk import fill_disk
from tests.helpers.published_networks import EDM, EDM2, ORACLES, assert_same_network, renamed, written
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.seeded_weights import normal, seeded_weights

PUBLISHED_NAME = "edm-cifar10-32x32-uncond-vp.pkl"


def test_the_files_carry_source_that_would_end_the_process() -> None:
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


def test_entries_beside_the_network_are_read_as_data() -> None:
    data = read_pickle(EDM2)
    assert data["dataset_kwargs"] == {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": "x.zip",
        "use_labels": True,
    }
    assert isinstance(data["encoder"], PickledObject)
    assert data["encoder"].class_name == "StabilityVAEEncoder"
    assert data["encoder"].state["vae_name"] == "stabilityai/sd-vae-ft-mse"
    torch.testing.assert_close(
        torch.from_numpy(data["encoder"].state["scale"]), 0.5 / torch.tensor([4.17, 4.62, 3.71, 3.28])
    )
    block = read_pickle(EDM)["ema"]
    for name in ("model", "enc", "8x8_block0"):
        block = block.state["_modules"][name]
    assert block.state["skip_scale"] == 0.5**0.5  # a NumPy number


@pytest.mark.parametrize("path", [EDM, EDM2], ids=["edm", "edm2"])
def test_a_converted_folder_predicts_as_the_pickle(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = read_network(path)
    convert([str(path), str(tmp_path / "out")])
    kind = type(network).__name__
    count = sum(parameter.numel() for parameter in network.parameters())
    size = "3x8x8" if path == EDM else "4x8x8"
    assert (
        capsys.readouterr().out == f"{tmp_path}/out: {kind}, {count:,} parameters, images {size}, 5 labels\n"
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    again = load_denoiser(tmp_path / "out").eval()
    x_t, t = normal("x", (2, *network.image_shape)), torch.tensor([0.3, 5.0])
    cond = Condition(torch.tensor([1, 4]))
    with torch.no_grad():
        assert torch.equal(again(x_t, t, cond), network(x_t, t, cond))


def test_backends_open_pickles_and_folders(tmp_path: Path) -> None:
    convert([str(EDM), str(tmp_path / "out")])
    for name, path, kind in (
        ("edm", EDM, "EDMNetwork"),
        ("edm", tmp_path / "out", "EDMNetwork"),
        ("edm2", EDM2, "EDM2Network"),
    ):
        teacher = load_teacher(Choice("teachers").settings(name).model_validate({"name": name, "path": path}))
        assert (type(teacher).__name__, teacher.training) == (kind, False)
    assert Choice("teachers").names == [
        "diffusers",
        "edm",
        "edm2",
        "gaussian_mixture",
        "known_scenes",
        "native",
    ]


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("edm", EDM2, f"{EDM2}: holds EDM2Network; expected EDMNetwork"),
        ("edm2", EDM, f"{EDM}: holds EDMNetwork; expected EDM2Network"),
        ("edm", Path("nowhere.pkl"), "nowhere.pkl: cannot be read (No such file or directory)"),
        ("edm", ORACLES, f"{ORACLES}: holds neither config.json nor an export nor a checkpoint"),
    ],
)
def test_a_path_to_another_network_or_none_is_refused(name: str, path: Path, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_teacher(Choice("teachers").settings(name).model_validate({"name": name, "path": path}))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("edm2", "edm", "edm: holds EDMNetwork; expected EDM2Network"),
        ("edm", "unet", "unet: holds UNet; expected EDMNetwork"),
        ("edm2", PUBLISHED_NAME, f"{PUBLISHED_NAME}: holds EDMNetwork; expected EDM2Network"),
    ],
)
def test_a_dry_run_refuses_another_network_too(
    name: str, path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert([str(EDM), str(tmp_path / "edm")])
    save_random_teacher(tmp_path / "unet")
    monkeypatch.chdir(tmp_path)
    teacher = Choice("teachers").settings(name).model_validate({"name": name, "path": path})
    with pytest.raises(UserError) as error:
        teacher.meta()
    assert str(error.value) == message


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        convert([str(EDM), str(tmp_path)])
    assert str(error.value) == f"{tmp_path}: exists; expected a new folder"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(UserError) as error:
        convert([str(EDM), str(tmp_path / "out")])
    assert str(error.value) == f"{tmp_path / 'out'}: cannot be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("channel_mult_noise", 1, "model.map_noise.freqs is (8,); expected (4,)"),
        ("num_blocks", 2, "model.enc.8x8_block1.norm0.weight is nothing; expected (8,)"),
        ("label_dim", 0, "it has model.map_label.weight, which the network has not"),
    ],
)
def test_weights_that_are_not_those_of_the_arguments_are_refused(
    argument: str, value: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_pickle(EDM)
    data["ema"].state["_init_kwargs"][argument] = value
    monkeypatch.setattr("distill.networks.edm.published.read_pickle", lambda path: data)
    with pytest.raises(UserError) as error:
        read_network(EDM)
    assert str(error.value) == f"{EDM}: weights of another architecture: {message}"


def test_students_of_sida_and_uni_instruct_are_edm_s_networks(tmp_path: Path) -> None:
    """The classes are EDM's, extended to return the encoder's mean; the default backbone is DDPM++."""
    data = read_pickle(EDM)
    student = renamed(
        data["ema"], {"EDMPrecond": "EDMPrecond_EncoderDecoder", "SongUNet": "SongUNet_EncoderDecoder"}
    )
    assert student.state["_init_kwargs"]["model_type"] == "SongUNet_EncoderDecoder"
    assert_same_network(written({"ema": student}, tmp_path / "network-snapshot-1.000000-064000.pkl"), EDM)
    del student.state["_init_kwargs"]["model_type"]
    assert_same_network(written({"ema": student}, tmp_path / "default.pkl"), EDM)
    arguments = {
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_type": "DhariwalUNet_EncoderDecoder",
    }
    assert describe_network("EDMPrecond_EncoderDecoder", arguments) == describe_network(
        "EDMPrecond", {**arguments, "model_type": "DhariwalUNet"}
    )


def test_students_of_sida_are_edm2_s_networks(tmp_path: Path) -> None:
    classes = {"Precond": "EDM_2_Precond_EncoderDecoder", "UNet": "UNet_EncoderDecoder"}
    arguments = {"force_normalization": True, "use_gan": True}
    student = renamed(read_pickle(EDM2)["ema"], classes, **arguments)
    assert_same_network(written({"ema": student}, tmp_path / "network.pkl"), EDM2)
    student.class_name = "EDM_2_Precond_Generator"  # without the uncertainty
    for name in ("logvar_fourier", "logvar_linear"):
        del student.state["_modules"][name]
    del student.state["_init_kwargs"]["logvar_channels"]
    network, whole = read_network(written({"ema": student}, tmp_path / "generator.pkl")), read_network(EDM2)
    x_t, t = normal("x", (2, *network.image_shape)), torch.tensor([2.5, 2.5])
    cond = Condition(torch.tensor([1, 4]))
    with torch.no_grad():
        assert torch.equal(network(x_t, t, cond), whole(x_t, t, cond))
    convert([str(tmp_path / "generator.pkl"), str(tmp_path / "out")])
    assert load_denoiser(tmp_path / "out").describe() == network.describe()
    with pytest.raises(ValueError, match=r"^logvar: the network was saved without its uncertainty$"):
        network.logvar(t)


def test_the_encoder_in_the_file_decides_what_its_latents_are(tmp_path: Path) -> None:
    data = read_pickle(EDM2)
    assert read_network(EDM2).describe()["autoencoder"] == "stabilityai/sd-vae-ft-mse"
    data["encoder"].state["vae_name"] = "stabilityai/sd-vae-ft-ema"
    assert (
        read_network(written(data, tmp_path / "other.pkl")).describe()["autoencoder"]
        == "stabilityai/sd-vae-ft-ema"
    )
    data["encoder"].class_name = "StandardRGBEncoder"
    assert read_network(written(data, tmp_path / "pixels.pkl")).describe()["autoencoder"] is None


@pytest.mark.parametrize("name", ["scale", "bias"])
def test_latents_in_other_units_are_refused(name: str, tmp_path: Path) -> None:
    data = read_pickle(EDM2)
    data["encoder"].state[name] = data["encoder"].state[name] * np.float32(1.01)
    path = written(data, tmp_path / "network.pkl")
    with pytest.raises(UserError) as error:
        read_network(path)
    expected = "its latents are in other units than those of EDM2's published encoder, the only ones known"
    assert str(error.value) == f"{path}: {expected}"


def test_overlapping_weights_are_refused(tmp_path: Path) -> None:
    """A small file whose layers are all the same numbers would take many times its size in memory."""
    data = read_pickle(EDM)
    blocks = data["ema"].state["_modules"]["model"].state["_modules"]["dec"].state["_modules"]
    first = blocks["4x4_in0"].state["_modules"]["conv0"].state["_parameters"]
    for name in ("4x4_in0", "4x4_in1"):
        blocks[name].state["_modules"]["conv1"].state["_parameters"]["weight"] = first["weight"]
    path = written({"ema": data["ema"]}, tmp_path / "network.pkl", "torch.save")
    with pytest.raises(UserError) as error:
        read_network(path)
    assert str(error.value) == f"{path}: has weights that share their numbers, which no network has"


def test_a_published_student_is_converted_to_an_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SiD's students make an image from noise of deviation 2.5, clamped to [-1, 1]."""
    convert([str(EDM), str(tmp_path / "out"), "--student", "2.5"])
    assert "out: one-step student of EDMNetwork, " in capsys.readouterr().out
    student, network = load_generator(tmp_path / "out"), read_network(EDM)
    z, cond = normal("z", (2, *network.image_shape)), Condition(torch.tensor([1, 4]))
    with torch.no_grad():
        expected = network(2.5 * z, torch.tensor([2.5, 2.5]), cond).clamp(-1, 1)
    assert torch.equal(student(z, cond), expected)
    with pytest.raises(UserError, match=r"^--student 0: expected a number above 0$"):
        convert([str(EDM), str(tmp_path / "other"), "--student", "0"])
