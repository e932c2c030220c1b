"""Small networks of our own classes with random weights, none of which is zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill.diffusion.schedules import EDM
from distill.networks.edm.edm import DhariwalUNetConfig, EDMNetwork, SongUNetConfig
from distill.networks.edm.edm2 import EDM2Config, EDM2Network
from distill.networks.edm.preconditioning import EDMPrecond
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.unet import UNet
from distill.types import Condition, Denoiser

SIZES: dict[str, Any] = {
    "resolution": 8,
    "channels": 3,
    "label_count": 4,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (4,),
}
NETWORKS: dict[str, Callable[..., Denoiser]] = {
    "unet": lambda **sizes: UNet.from_description({**SIZES, "width": 8, **sizes}),
    "song": lambda **sizes: EDMNetwork(
        SongUNetConfig(**{**SIZES, "width": 16, "dropout": 0.0, **sizes}), EDMPrecond()
    ),
    "dhariwal": lambda **sizes: EDMNetwork(
        DhariwalUNetConfig(**{**SIZES, "width": 64, "dropout": 0.0, **sizes}), EDMPrecond()
    ),
    "edm2": lambda **sizes: EDM2Network(
        EDM2Config(**{**SIZES, "width": 16, "channels_per_head": 16, **sizes})
    ),
}
"""Networks of 8x8 images with attention and four labels, by name."""


def small_network(name: str, **sizes: Any) -> Denoiser:
    """Build a network, and move all its parameters away from zero, which would hide what comes before."""
    torch.manual_seed(0)
    network = NETWORKS[name](**sizes)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def small_mlp() -> Denoiser:
    """Build a network of vectors of three elements."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(3, 4), EDM())
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs(network: Denoiser, count: int = 2) -> tuple[Tensor, Tensor, Condition]:
    """Draw x_t, t and a condition for a network of `NETWORKS`."""
    random = torch.Generator().manual_seed(1)
    x_t = torch.randn(count, *network.image_shape, generator=random)
    return x_t, torch.linspace(0.4, 0.9, count), Condition(torch.arange(count) % network.label_count)


def gradients(network: Denoiser, *given: Any, depths: tuple[str, ...] = ("bottleneck",)) -> list[Tensor]:
    """Return a prediction, its features, and the gradients of their mean squares by x_t and all weights."""
    x_t, *others = given
    x_t = x_t.clone().requires_grad_(True)
    prediction, features = network(x_t, *others, depths)
    outputs = [prediction, *features.values()]
    total = torch.stack([output.float().square().mean() for output in outputs]).sum()
    wanted = [x_t, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [*outputs, *(gradient for gradient in found if gradient is not None)]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """Check that tensors differ by no more than a share of the largest number in each.

    A tenth of the largest in all of them counts too, of which small tensors may be the difference.
    """
    assert len(found) == len(expected)
    largest = max(float(wanted.detach().abs().max()) for wanted in expected)
    for value, wanted in zip(found, expected, strict=True):
        assert value.shape == wanted.shape
        assert (value - wanted).abs().max() <= tolerance * (wanted.abs().max() + 0.1 * largest)
