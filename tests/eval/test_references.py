"""Published statistics belong to their protocol; weights and arrays are whole and take little memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data.sources.array import read_array
from distill.eval.fid.reference import holds_statistics, read_statistics
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.images.resize import resize
from distill.eval.protocols import default_protocol, read_protocol
from distill.training.settings import RunSettings

ARRAYS = {"mu": np.zeros(3), "sigma": np.eye(3)}

NAMES = {
    ("cifar10-32x32.npz", "edm-50k"): "EDM",
    ("imagenet-64x64.npz", "edm-50k"): "EDM",
    ("cifar10_clean_train_32.npz", "clean"): "clean-fid, clean",
    ("cifar10_legacy_tensorflow_train_32.npz", "clean-legacy"): "clean-fid, legacy_tensorflow",
    ("mine.npz", "clean"): None,
}


@pytest.mark.parametrize(("name", "protocol"), NAMES)
def test_statistics_are_known_by_the_name_that_they_were_published_under(
    tmp_path: Path, name: str, protocol: str
) -> None:
    np.savez(tmp_path / name, **ARRAYS)
    origin = read_statistics(tmp_path / name, read_protocol(protocol)).origin
    made = NAMES[name, protocol]
    assert origin["kind"] == f"statistics ({made or 'of unknown origin'})"
    assert origin["known"] == (made is not None)


@pytest.mark.parametrize(
    ("name", "arrays", "protocol", "message"),
    [
        (
            "cifar10-32x32.npz",
            ARRAYS,
            "clean",
            "statistics of EDM are made for edm-50k; expected some made for clean",
        ),
        (
            "VIRTUAL_imagenet64_labeled.npz",
            ARRAYS,
            "edm-50k",
            "statistics of ADM are made for none of ours; expected some made for edm-50k",
        ),
        (
            "x.npz",
            {**ARRAYS, "mu_s": np.zeros(2)},
            "clean",
            "statistics of ADM are made for none of ours; expected some made for clean",
        ),
        ("a_clean_b.npz", ARRAYS, "edm-50k", "'clean' in its name is another protocol"),
    ],
)
def test_statistics_of_another_protocol_are_refused(
    tmp_path: Path, name: str, arrays: dict, protocol: str, message: str
) -> None:
    np.savez(tmp_path / name, **arrays)
    with pytest.raises(UserError, match=message):
        read_statistics(tmp_path / name, read_protocol(protocol))


WRONG = {
    "half a matrix": (
        {"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))},
        "'sigma' is not symmetric; expected a covariance",
    ),
    "text": (
        {"mu": np.array(["a"] * 3), "sigma": np.array([["b"] * 3] * 3)},
        "'mu' and 'sigma' are of the type <U1; expected numbers",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_statistics_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=rf"^--reference {tmp_path}/x.npz: {message}$"):
        read_statistics(tmp_path / "x.npz", read_protocol("edm-50k"))


def test_statistics_of_any_machine_and_of_rounded_symmetry_are_read(tmp_path: Path) -> None:
    sigma = np.eye(3) + np.triu(np.full((3, 3), 1e-7), 1)
    np.savez(tmp_path / "x.npz", mu=np.arange(3.0).astype(">f8"), sigma=sigma.astype(">f8"))
    (tmp_path / "x.npz").rename(tmp_path / "x.NPZ")
    assert holds_statistics(tmp_path / "x.NPZ")
    read = read_statistics(tmp_path / "x.NPZ", read_protocol("edm-50k")).statistics
    assert read.mean.tolist() == [0, 1, 2]
    assert torch.equal(read.cov, torch.from_numpy((sigma + sigma.T) / 2))
    huge = Statistics(torch.full((3,), 1e200, dtype=torch.float64), torch.eye(3).double(), None)
    with pytest.raises(UserError, match=r"^statistics: their distance is inf; expected features"):
        frechet_distance(huge, read)


def test_statistics_of_edm2_may_say_how_many_images_they_are_of(tmp_path: Path) -> None:
    content = {"fid": {name: array.astype(np.float64) for name, array in ARRAYS.items()}, "num_images": 50000}
    (tmp_path / "img64.pkl").write_bytes(pickle.dumps(content))
    assert (
        read_statistics(tmp_path / "img64.pkl", read_protocol("edm-50k")).origin["kind"]
        == "statistics (EDM2)"
    )
    with pytest.raises(
        UserError, match=r"statistics of EDM2 are made for edm-50k, fd-dinov2; expected some made for clean"
    ):
        read_statistics(tmp_path / "img64.pkl", read_protocol("clean"))


MEASURE = """
import resource, sys
import numpy as np
from distill.data.sources.array import read_array
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = read_array(__import__("pathlib").Path(sys.argv[1]))
image, label = source[7]
assert image.shape == (3, 256, 256), image.shape
assert len(source) == 500
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_an_array_takes_the_memory_of_its_bytes(tmp_path: Path) -> None:
    pixels = np.zeros((500, 256, 256, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", arr_0=pixels)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x.npz")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.6 * pixels.nbytes


def test_an_array_gives_the_images_of_its_bytes(tmp_path: Path) -> None:
    pixels = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.savez(tmp_path / "x.npz", arr_0=pixels, arr_1=np.array([1, 0]), other=np.zeros(3))
    source = read_array(tmp_path / "x.npz")
    image, label = source[1]
    assert label == 1 - 1
    torch.testing.assert_close(image, torch.from_numpy(pixels[1].transpose(2, 0, 1)).float() / 127.5 - 1)


def test_weights_of_dinov2_without_a_layer_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model

    from distill.eval.features import load_extractor

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    load_extractor("dinov2", str(tmp_path / "dino"))
    file = tmp_path / "dino" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if ".1." not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"^--weights: .* holds weights of another architecture: it has no encoder.layer.1\."
    ):
        load_extractor("dinov2", str(tmp_path / "dino"))


def test_dgm_eval_resizes_in_bytes() -> None:
    image = torch.randint(256, (3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = np.asarray(
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    )
    assert torch.equal(
        resize("pil_bicubic_bytes", image, 224), torch.from_numpy(expected.copy()).permute(2, 0, 1).float()
    )
    grey = torch.full((1, 5, 5), 9, dtype=torch.uint8)
    assert torch.equal(resize("pil_bicubic_bytes", grey, 224), torch.full((1, 224, 224), 9.0))
    assert read_protocol("fd-dinov2-dgm").sha256 != read_protocol("fd-dinov2").sha256


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 8, 8), "fd-pixel"),
        ((1, 28, 28), "fd-pixel"),
        ((3, 32, 32), "fd-effnet"),
        ((3, 64, 64), "fd-effnet"),
    ],
)
def test_the_default_protocol_follows_the_images(shape: tuple[int, ...], name: str) -> None:
    assert default_protocol(shape).name == name
    assert RunSettings.model_fields["monitor_protocol"].default == "auto"


def test_without_the_package_pictures_need_a_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.eval.protocols.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"their pixels are no features; expected pip install"):
        default_protocol((3, 64, 64))
