"""Perceptual distances against torchmetrics' LPIPS, and the mean over pairs against a list of pairs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import NetLinLayer, ScalingLayer, _normalize_tensor, _spatial_average

from distill.config.errors import UserError
from distill.eval.metrics.diversity.perceptual import (
    Lpips,
    load_perceptual,
    mean_pairwise_distance,
)


def images(count: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)


def save_backbone(name: str, path: Path) -> Path:
    """Save random weights by the names that torchvision has, and a classifier, which is left out."""
    torch.manual_seed(0)
    weights = {f"features.{key}": value for key, value in Lpips(name).features.state_dict().items()}
    torch.save({**weights, "classifier.6.bias": torch.zeros(1000)}, path)
    return path


def lpips_of_torchmetrics(network: Lpips, a: Tensor, b: Tensor) -> Tensor:
    """Compute LPIPS with torchmetrics' layers around torchvision's architecture, written out anew."""
    scale = ScalingLayer()
    found = []
    for image in (a, b):
        x, layers = scale(image.float() / 127.5 - 1), []
        for layer in network.features:
            before, x = x, layer(x)
            if isinstance(layer, nn.MaxPool2d):
                layers.append(before)
        if network.name == "lpips-alex":  # the last three convolutions are not separated by a pool
            convolutions = list(network.features)
            for place in (6, 8, 10):
                x = nn.Sequential(*convolutions[: place + 2])(scale(image.float() / 127.5 - 1))
                layers.append(x)
        else:
            layers.append(x)
        found.append(layers)
    total = torch.zeros(len(a))
    for head, one, other in zip(network.heads, *found, strict=True):
        linear = NetLinLayer(len(head))
        linear.model[0].weight.data = head.data[None, :, None, None]
        difference = (_normalize_tensor(one) - _normalize_tensor(other)) ** 2
        total += _spatial_average(linear(difference)).flatten()
    return total


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_lpips_is_that_of_torchmetrics(name: str, tmp_path: Path) -> None:
    network = load_perceptual(f"{name}={save_backbone(name, tmp_path / 'backbone.pth')}")
    assert isinstance(network, Lpips)
    assert all(head.max() > 0 for head in network.heads)  # the trained ones, which torchmetrics brings
    a, b = images(3, 64), images(2, 64)
    for one in a:
        found = (network(one[None]) - network(b)).square().sum(1)
        expected = lpips_of_torchmetrics(network, one[None].expand_as(b), b)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_mean_over_pairs_needs_no_pairs() -> None:
    network = load_perceptual("effnet-layers")
    pictures = [*images(4, 32)]
    embeddings = network(torch.stack(pictures)).double()
    pairs = [(a - b).square().sum() for a, b in itertools.combinations(embeddings, 2)]
    assert mean_pairwise_distance(network, pictures) == pytest.approx(
        float(torch.stack(pairs).mean()), rel=1e-5
    )
    assert mean_pairwise_distance(network, pictures[:1] * 3) == pytest.approx(0, abs=1e-6)
    grey = [picture[:1] for picture in pictures]
    colour = [picture[:1].expand(3, -1, -1) for picture in pictures]
    assert mean_pairwise_distance(network, grey) == mean_pairwise_distance(network, colour)


@pytest.mark.parametrize("name", ["effnet-layers", "lpips-alex"])
def test_a_network_on_another_device_than_the_images_has_the_embeddings(name: str, tmp_path: Path) -> None:
    """The meta device stands for a GPU."""
    path = "" if name == "effnet-layers" else f"={save_backbone(name, tmp_path / 'backbone.pth')}"
    network = load_perceptual(f"{name}{path}")
    expected = network(images(2, 32)).shape
    found = network.to("meta")(images(2, 32))
    assert (found.device.type, found.shape) == ("meta", expected)


def test_images_are_on_the_cpu_when_pillow_resizes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_perceptual("effnet-layers")
    pictures = [*images(2, 32)]
    expected = mean_pairwise_distance(network, pictures)
    moved = []
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *given: moved.append(self.dtype) or to(self, *given))
    assert mean_pairwise_distance(network, pictures) == expected
    assert torch.uint8 not in moved


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    backbone = save_backbone("lpips-alex", tmp_path / "alex.pth")
    with pytest.raises(UserError, match=r"'lpips-alx' is no perceptual distance.*lpips-alex"):
        load_perceptual("lpips-alx=x")
    with pytest.raises(UserError, match=r"^--perceptual lpips-alex: expected lpips-alex=PATH with "):
        load_perceptual("lpips-alex")
    with pytest.raises(UserError, match=r"weights of another architecture: features\.0\.weight is"):
        load_perceptual(f"lpips-vgg={backbone}")
    with pytest.raises(UserError, match=r"is no file of lpips-alex: lin0\.model\.1\.weight is nothing"):
        load_perceptual(f"lpips-alex={backbone}", heads=backbone)
    for name, content, kind in (("one", torch.zeros(3), "Tensor"), ("checkpoint", {"epoch": 3}, "dict")):
        torch.save(content, tmp_path / f"{name}.pth")
        complaint = rf"{name}\.pth: holds a {kind}; expected weights by name$"
        with pytest.raises(UserError, match=complaint):
            load_perceptual(f"lpips-alex={tmp_path / name}.pth")
        with pytest.raises(UserError, match=complaint):
            load_perceptual(f"lpips-alex={backbone}", heads=tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=complaint):
            load_perceptual(f"effnet-layers={tmp_path / name}.pth")
    network = load_perceptual(f"lpips-alex={backbone}")
    with pytest.raises(UserError, match=r"^lpips-alex: images of 8x8 pixels; expected at least 31x31$"):
        network(images(1, 8))
    with pytest.raises(UserError, match=r"^lpips-alex: images of one prompt or label have several sizes$"):
        mean_pairwise_distance(network, [images(1, 64)[0], images(1, 80)[0]])
