"""Networks, method and one batch, on which the losses of a training step are computed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.training.batches import Batch, Noise
from distill.training.distillation.build import build_generator, build_method
from distill.training.distillation.method import Method, Networks
from distill.types import Condition
from tests.helpers.runs import read_run, write_run

REVERSE_KL = {"name": "distribution_matching", "divergence": "reverse_kl"}
QUANTILES = {"gan_noise": 0.9, "discriminator_noise": 0.8, "real_noise": 0.7}
"""Quantile of the noise level of each view of the discriminator that has noise of its own."""


def loss_inputs(
    folder: Path, objective: dict[str, Any] = REVERSE_KL, **settings: Any
) -> tuple[Networks, Method, Batch]:
    """Build the networks and the method of a run on a random teacher, and a batch of four images."""
    defaults = {"data": {"name": "digits"}, "steps": 10, "generator": {"init_noise_to_signal": 2.5}}
    config = read_run(write_run(folder, **defaults, objective=objective, **settings))
    torch.manual_seed(0)
    teacher = config.teacher.load().eval().requires_grad_(False)
    fake = copy.deepcopy(teacher).requires_grad_(True)
    for parameter in fake.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    discriminator = config.discriminator.build(teacher, fake) if config.discriminator else None
    networks = Networks(teacher, fake, build_generator(config.generator, teacher), discriminator)
    tensors = {name: torch.randn(4, 1, 8, 8) for name in ("z", "eps", "eps_fake", "eps_real", "real")}
    own_noise = {
        name: Noise(torch.full((4,), u), torch.randn(4, 1, 8, 8))
        for name, u in QUANTILES.items()
        if name in config.own_noise
    }
    batch = Batch(
        cond=Condition(torch.tensor([1, 2, 3, 4])),
        u=torch.rand(4),
        u_fake=torch.rand(4),
        **tensors,
        **own_noise,
    )
    return networks, build_method(config, torch.device("cpu")), batch


def fake_sigma(u: Tensor) -> Tensor:
    """Return the noise levels of quantiles u in the fake score's update: log sigma ~ N(-1.2, 1.2^2)."""
    return (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(u)).exp()


def generator_sigma(u: Tensor) -> Tensor:
    """Return the noise levels of quantiles u in the generator's update: Karras's levels of rho = 7."""
    return (80 ** (1 / 7) + u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7


def add_noise(x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """Return x + sigma eps for images (b, 1, 8, 8) and levels (b,)."""
    return x + sigma.reshape(-1, 1, 1, 1) * eps


def has_gradient(network: torch.nn.Module) -> bool:
    """Return True if a backward pass gave a parameter of a network a gradient that is not 0."""
    gradients = [parameter.grad for parameter in network.parameters()]
    return any(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)


def gradients_of(*networks: torch.nn.Module) -> list[Tensor | None]:
    """Return the gradient of each parameter, None where no backward pass reached it."""
    return [parameter.grad for network in networks for parameter in network.parameters()]
