"""Networks and losses in float64 compute in float64 throughout.

A central difference of step 1e-4 shows it: in float64 it agrees with the derivative to about 1e-7, and any
rounding in float32 would leave errors of about 1e-7/1e-4 in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_generator, sample_teacher
from distill.diffusion.schedules import EDM
from distill.networks.discriminator import Discriminator
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes, UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.objectives.gradient_penalty import squared_gradient
from distill.objectives.reward_loss import Brightness, RewardTerm, WeightedReward
from distill.objectives.term import TermInputs
from distill.types import Condition, Denoiser, Prediction, Scores
from tests.helpers.exported import own_student

LABELS = Condition(torch.tensor([0, 1]))
STEP = 1e-4


def denoiser(kind: str, folder: Path) -> Denoiser:
    """Make a small network of one kind with random weights."""
    torch.manual_seed(0)
    if kind == "mlp":
        return MLP(MLPConfig(3, label_count=2, sizes=MLPSizes(width=16)), EDM()).eval()
    return own_student(kind, folder).denoiser


def differences(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function's derivative along a fixed direction: a central difference, and by autograd."""
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    central = (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)
    with sdpa_kernel(SDPBackend.MATH):  # `jvp` differentiates twice
        _, exact = torch.autograd.functional.jvp(function, x, direction)
    return central.detach(), exact


def magnitudes(weight: Tensor) -> Tensor:
    """Return the root mean square of each row."""
    return weight.detach().flatten(1).square().mean(1).sqrt()


@pytest.mark.parametrize("kind", ["unet", "edm", "edm2", "mlp"])
def test_a_network_in_float64_predicts_in_float64(kind: str, tmp_path: Path) -> None:
    single = denoiser(kind, tmp_path)
    double = copy.deepcopy(single).double()
    torch.manual_seed(1)
    x_t, t = torch.randn(2, *single.image_shape), torch.tensor([0.3, 5.0])
    expected = single(x_t, t, LABELS)
    found = double(x_t.double(), t.double(), LABELS)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    central, exact = differences(lambda x: double(x, t.double(), LABELS), x_t.double())
    torch.testing.assert_close(central, exact, rtol=0, atol=1e-6 * exact.abs().max().item())


@pytest.mark.parametrize("kind", ["unet", "edm", "edm2", "mlp"])
def test_the_noise_level_is_embedded_in_float64(kind: str, tmp_path: Path) -> None:
    double = denoiser(kind, tmp_path).double()
    x_t = torch.randn(2, *double.image_shape, dtype=torch.float64)
    central, exact = differences(
        lambda t: double(x_t, t, LABELS), torch.tensor([0.3, 5.0], dtype=torch.float64)
    )
    torch.testing.assert_close(central, exact, rtol=0, atol=1e-4 * exact.abs().max().item())


def test_edm2_in_training_normalises_its_weights_in_float64(tmp_path: Path) -> None:
    """The magnitude r of a row becomes r/(r + 1e-4) (eq. 66 of Karras et al. 2024)."""
    double = denoiser("edm2", tmp_path).double().train()
    before = {
        name: magnitudes(parameter) for name, parameter in double.unet.named_parameters() if parameter.ndim
    }
    x_t = torch.randn(2, *double.image_shape, dtype=torch.float64)
    double(x_t, torch.ones(2, dtype=torch.float64), LABELS).square().mean().backward()
    for name, r in before.items():
        torch.testing.assert_close(
            magnitudes(double.unet.get_parameter(name)), r / (r + 1e-4), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("kind", ["edm", "edm2"])
def test_images_are_sampled_from_networks_in_float64(kind: str, tmp_path: Path) -> None:
    single = denoiser(kind, tmp_path)
    double = copy.deepcopy(single).double()
    seeds, sampler = range(2), Heun(steps=3)
    students = [
        sample_generator(FewStepGenerator(network, 2.5), seeds, LABELS) for network in (single, double)
    ]
    teachers = [sample_teacher(network, seeds, LABELS, sampler) for network in (single, double)]
    for in_single, in_double in (students, teachers):
        torch.testing.assert_close(in_double, in_single, rtol=1e-3, atol=1e-4)


def test_a_gradient_penalty_in_float64_has_its_digits() -> None:
    """The gradient of w . x is w. With w = 1 + 1e-9 in each of four elements its square is 4 (1 + 2e-9).

    In float32 it would be 4.
    """
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    squared = squared_gradient((x * (1 + 1e-9)).sum(1), [x])
    assert squared.dtype == torch.float64
    assert abs(squared.item() - 4 - 8e-9) < 1e-14


def test_rewards_of_images_in_float64_are_in_float64() -> None:
    x0 = torch.full((2, 1, 2, 2), 1 / 3, dtype=torch.float64)
    ones, generator = (
        x0.new_ones(2, 1, 1, 1),
        FewStepGenerator(UNet(UNetConfig(2, 1, sizes=UNetSizes(width=8, multipliers=(1,), blocks=1))), 1.0),
    )
    student = TermInputs(
        Scores(x0, x0, ones, ones, x0, x0, x0.new_zeros(2)), Condition(), generator, Prediction(x0)
    )
    loss = RewardTerm([WeightedReward("brightness", Brightness())])(student).loss
    assert loss.dtype == torch.float64
    assert (loss + 1 / 3).abs().max() < 1e-15


def test_a_discriminator_in_float64_gives_logits_in_float64() -> None:
    heads = Discriminator("teacher", {"8": 8}, 4).double()
    central, exact = differences(lambda x: heads({"8": x}), torch.randn(2, 8, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(central, exact, rtol=0, atol=1e-6 * exact.abs().max().item())
