"""The moving average of weights, in at least float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill.training.optimization.average_settings import HalfLife
from distill.training.optimization.ema import EMA, EMAs, average_of, measure_averages
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes
from tests.helpers.dispatched import Dispatched


def disturb(network: nn.Module, seed: int) -> None:
    """Change all parameters and buffers."""
    random = torch.Generator().manual_seed(seed)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(torch.randn(tensor.shape, generator=random))
        else:
            tensor.data.add_(1)


def test_an_average_of_decay_0_is_the_network_itself() -> None:
    network = nn.Linear(2, 2)
    average = EMA(network, 0.0)
    disturb(network, 0)
    average.update()
    assert torch.equal(average.average.weight, network.weight)


def test_an_average_is_that_of_one_tensor_after_another_to_the_bit() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    expected = copy.deepcopy(network)
    average = EMA(network, 0.9)
    for step in range(4):
        disturb(network, step)
        average.update()
        weight = 1 - min(0.9, (1 + step) / (10 + step))
        for mine, theirs in zip(expected.parameters(), network.parameters(), strict=True):
            mine.data.lerp_(theirs.data, weight)
    for mine, theirs in zip(average.average.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_buffers_of_any_type_are_copied() -> None:
    network = nn.BatchNorm1d(2)
    average = EMA(network, 0.9)
    disturb(network, 0)
    average.update()
    for mine, theirs in zip(average.average.buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_average_of_weights_in_bfloat16_follows_their_masters_in_float32() -> None:
    network = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(network.weight)
    average = EMA(network, 0.0)
    updater = Updater(
        "network", network, OptimizerSettings(lr=1e-4, betas=(0.0, 0.0)), 10, Processes(torch.device("cpu"))
    )
    network.weight.grad = torch.ones_like(network.weight)
    updater.update(0)
    average.update(updater.weights)
    assert average.average.weight.dtype == torch.float32
    assert torch.equal(average.average.weight, updater.weights[0])
    assert network.weight.item() == 1.0 != average.average.weight.item()


def test_frozen_weights_are_left_out() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    average = EMA(network, 0.0)
    before = average.average[0].weight.clone()
    disturb(network, 0)
    average.update(list(network[1].parameters()))
    assert torch.equal(average.average[0].weight, before)
    assert torch.equal(average.average[1].weight, network[1].weight)


def test_an_average_that_is_given_is_moved_and_not_copied() -> None:
    """It shares the frozen weights of the network, as that of a network with LoRA adapters does."""
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    given = nn.Sequential(network[0], average_of(network[1]))
    average = EMA(network, 0.0, given)
    before = network[0].weight.clone()
    disturb(network[1], 0)
    average.update()
    assert average.average is given
    assert torch.equal(given[0].weight, before)
    assert torch.equal(given[1].weight, network[1].weight)


def test_an_update_takes_two_operations() -> None:
    network = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(9)))
    average = EMA(network, 0.9)
    with Dispatched() as dispatched:
        average.update()
    assert [name for name, _ in dispatched.calls] == ["_foreach_lerp_", "_foreach_copy_"]


@pytest.mark.parametrize("rampup", [0.05, None])
def test_a_half_life_in_images_is_edm_s(rampup: float | None) -> None:
    """EDM's loop by hand: beta = 0.5 ** (batch / half-life), at most a share of the images so far."""
    settings = HalfLife(half_life_images=1000, rampup=rampup)
    network = nn.Linear(3, 2)
    expected = network.weight.detach().clone()
    average = EMA(network, settings, batch_size=64)
    for step in range(500):
        if step % 100 == 0:
            disturb(network, step)
        average.update()
        half_life = 1000.0
        if rampup is not None:
            half_life = min(half_life, step * 64 * rampup)
        beta = 0.5 ** (64 / max(half_life, 1e-8))
        expected = beta * expected + (1 - beta) * network.weight.detach()
    torch.testing.assert_close(average.average.weight, expected)
    assert settings.decay_at(10**6, 1000) == 0.5


def test_several_averages_follow_one_network_and_the_best_is_selected() -> None:
    network = nn.Linear(3, 2)
    several = EMAs(network, [0.0, 0.9, HalfLife(half_life_images=10)], batch_size=2)
    alone = EMA(network, 0.9)
    for step in range(5):
        disturb(network, step)
        several.update()
        alone.update()
    assert torch.equal(several.averages[0].weight, network.weight)
    assert torch.equal(several.averages[1].weight, alone.average.weight)
    assert several.average is several.averages[0]
    measured = {0: 3.0, 1: float("nan"), 2: 2.0}
    best, numbers = measure_averages(several, lambda: {"fd": measured[several.selected], "n": 1.0})
    assert best == {"fd": 2.0, "n": 1.0}
    assert several.average is several.averages[2]
    assert numbers["ema/best"] == 3
    assert numbers["ema/1/fd"] == 3.0
    assert list(several.saved_modules()) == ["average_1", "average_2", "average_3"]
    single = EMAs(network, [0.9], batch_size=2)
    assert (single.saved_modules(), measure_averages(single, lambda: {"fd": 1.0})) == ({}, ({"fd": 1.0}, {}))
