"""Weights in fewer bits learn through float32 masters, and optimisers may work in the host's memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.storage.tensors import load_tensors, save_tensors
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes


def updater_of(network: nn.Module, **settings: Any) -> Updater:
    return Updater("network", network, OptimizerSettings(**settings), 1000, Processes(torch.device("cpu")))


def small_network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


def train(network: nn.Module, updater: Updater, steps: range) -> None:
    """Fit random outputs at random inputs."""
    for step in steps:
        random = torch.Generator().manual_seed(step)
        x = torch.randn(5, 3, generator=random).to(network[0].weight.dtype)
        (network(x) - 1).square().mean().backward()
        updater.update(step)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_steps_too_small_for_bfloat16_add_up() -> None:
    """A step of 1e-4 from 1 is lost in bfloat16, whose numbers below 1 are 1/256 apart; 50 are not."""
    network = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(network.weight)
    updater = updater_of(network, lr=1e-4, betas=(0.0, 0.0))
    for step in range(50):
        network.weight.grad = torch.ones_like(network.weight)
        updater.update(step)
    (weight,) = updater.weights
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.item(), 1 - 50 * 1e-4, rtol=0, atol=1e-6)
    assert network.weight.dtype == torch.bfloat16
    assert network.weight.item() == 1 - 1 / 256


def test_gradients_in_bfloat16_are_measured_in_float32() -> None:
    """The norm of 512 ones and of 0.5 is kept to more digits than bfloat16 has."""
    network = nn.Linear(512, 1).to(torch.bfloat16)
    updater = updater_of(network)
    network.weight.grad = torch.ones_like(network.weight)
    network.bias.grad = torch.full_like(network.bias, 4.0)
    torch.testing.assert_close(updater.update(0).item(), 528**0.5)


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    """1 + 8/512 is beyond bfloat16 if each 1/512 is added alone."""
    network = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    updater = updater_of(network)
    for gradient in (1.0, *8 * [1 / 512]):
        network.weight.grad = torch.full_like(network.weight, gradient)
        updater.accumulate()
    assert updater.update(0).item() == 1 + 8 / 512
    assert updater.update(1).item() == 0.0


def test_weights_in_float32_are_stepped_themselves() -> None:
    network = small_network(torch.float32)
    updater = updater_of(network)
    assert [id(weight) for weight in updater.weights] == [id(parameter) for parameter in network.parameters()]
    assert updater.state_tensors() == {}


@pytest.mark.parametrize("offload", [False, True])
def test_masters_continue_from_a_file_to_the_bit(tmp_path: Any, offload: bool) -> None:
    network = small_network(torch.bfloat16)
    updater = updater_of(network, lr=1e-3, betas=(0.9, 0.99), offload=offload)
    train(network, updater, range(3))
    save_tensors(tmp_path / "net.safetensors", network.state_dict())
    save_tensors(tmp_path / "state.safetensors", updater.state_tensors())
    assert {"0.master", "3.master"} < set(updater.state_tensors())
    train(network, updater, range(3, 6))

    other = small_network(torch.bfloat16)
    its_updater = updater_of(other, lr=1e-3, betas=(0.9, 0.99), offload=offload)
    train(other, its_updater, range(10, 11))
    other.load_state_dict(load_tensors(tmp_path / "net.safetensors"))
    its_updater.restore(load_tensors(tmp_path / "state.safetensors"))
    train(other, its_updater, range(3, 6))
    assert_equal(other.state_dict(), network.state_dict())
    assert_equal(its_updater.state_tensors(), updater.state_tensors())


def test_a_state_without_masters_starts_them_from_the_loaded_weights() -> None:
    network = small_network(torch.bfloat16)
    updater = updater_of(network)
    train(network, updater, range(1))
    nn.init.constant_(network[0].weight, 0.25)
    updater.restore({})
    assert torch.equal(updater.weights[0], torch.full((4, 3), 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_on_the_host_are_those_on_the_device(dtype: torch.dtype) -> None:
    network = small_network(dtype)
    twin = copy.deepcopy(network)
    updater, other = updater_of(network, offload=True), updater_of(twin)
    train(network, updater, range(3))
    train(twin, other, range(3))
    assert_equal(network.state_dict(), twin.state_dict())
    assert_equal(updater.state_tensors(), other.state_tensors())


def test_updates_on_the_host_start_from_weights_that_the_network_changed_itself() -> None:
    network = nn.Linear(1, 1, bias=False)
    updater = updater_of(network, offload=True, lr=1.0, betas=(0.0, 0.0), eps=1.0)
    nn.init.constant_(network.weight, 7.0)
    network.weight.grad = torch.ones_like(network.weight)
    updater.update(0)
    assert network.weight.item() == 6.5


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_moved_are_what_the_optimiser_steps_next(dtype: torch.dtype, offload: bool) -> None:
    """A quarter of the way from 1 to 2, and then a step of 1e-4, which bfloat16 alone would lose."""
    network = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(network.weight)
    updater = updater_of(network, lr=1e-4, betas=(0.0, 0.0), offload=offload)
    updater.masters.move_towards([torch.full((1, 1), 2.0)], 0.25)
    assert network.weight.item() == 1.25
    network.weight.grad = torch.ones_like(network.weight)
    updater.update(0)
    (weight,) = updater.weights
    assert weight.item() == pytest.approx(1.25 - 1e-4, abs=1e-7)
    assert torch.equal(network.weight, weight.to(dtype))
