"""The scale of the loss in fp16 grows until gradients overflow, and such updates are skipped."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from distill.training.optimization.loss_scale import LossScale
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes
from tests.helpers.dispatched import Dispatched

SETTINGS = OptimizerSettings(lr=0.1, clip_grad_norm=0.5)


def network_and_updater() -> tuple[nn.Linear, Updater]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    return network, Updater("network", network, SETTINGS, 10, Processes(torch.device("cpu")))


def loss_of(network: nn.Module) -> torch.Tensor:
    return network(torch.tensor([1.0, 2.0, 3.0])).square().sum()


def test_a_scaled_update_is_that_without_a_scale_to_the_bit() -> None:
    """The scale is a power of 2."""
    (network, updater), (twin, other) = network_and_updater(), network_and_updater()
    scale = LossScale()
    scale(loss_of(network)).backward()
    assert network.bias.grad is not None
    loss_of(twin).backward()
    assert twin.bias.grad is not None
    assert torch.equal(network.bias.grad, 2**16 * twin.bias.grad)
    assert torch.equal(updater.update(0, scale), other.update(0))
    assert torch.equal(network.weight, twin.weight)


def test_an_overflow_halves_the_scale_and_is_counted_and_skipped() -> None:
    """One loss trains two networks; the one whose gradient is finite is updated."""
    (network, updater), (twin, other) = network_and_updater(), network_and_updater()
    scale, before = LossScale(), copy.deepcopy(network.state_dict())
    scale(loss_of(network) + loss_of(twin)).backward()
    assert network.bias.grad is not None
    network.bias.grad.fill_(math.inf)
    assert not updater.update(0, scale).isfinite()
    assert other.update(0, scale).isfinite()
    assert not scale.update()
    assert torch.equal(network.weight, before["weight"])
    assert not torch.equal(twin.weight, before["weight"])
    metrics = {name: value.item() for name, value in scale.metrics("fake").items()}
    assert metrics == {"loss_scale/fake": 2**15, "loss_scale/fake_skipped": 1}
    assert scale.found.item() == 0


def test_the_scale_doubles_after_2000_updates_without_overflow() -> None:
    scale = LossScale()
    for number in range(1, 2001):
        scale.note(torch.tensor(0.0))
        scale.update()
        assert scale.scale.item() == (2**17 if number == 2000 else 2**16)


def test_a_scale_that_keeps_falling_is_reported() -> None:
    """37 overflows in a row halve 2^16 to 2^-21."""
    scale = LossScale()
    reported = []
    for _ in range(37):
        scale.note(torch.tensor(1.0))
        reported.append(bool(scale.update()))
    assert reported == [False] * 36 + [True]
    assert scale.scale.item() == 2**-21


def test_a_scale_continues_from_its_state() -> None:
    scale, other = LossScale(), LossScale()
    for is_skipped in (1.0, 0.0, 0.0):
        scale.note(torch.tensor(is_skipped))
        scale.update()
    other.load_state_dict(scale.state_dict())
    assert {name: value.item() for name, value in other.state_dict().items()} == {
        "scale": 2**15,
        "growth": 2,
        "skipped": 1,
    }


def test_nothing_is_read_from_the_device() -> None:
    network, updater = network_and_updater()
    scale = LossScale()
    with Dispatched() as dispatched:
        scale(loss_of(network)).backward()
        updater.update(0, scale)
        scale.update()
        scale.metrics("fake")
    assert "_local_scalar_dense" not in [name for name, _ in dispatched.calls]


def test_a_skipped_update_has_no_norm_in_the_log() -> None:
    assert LossScale.norm_made(torch.tensor(torch.inf)) == 0
    assert LossScale.norm_made(torch.tensor(2.5)) == 2.5
