"""Adam with running means of 8 bits.

The tests run with bitsandbytes where it is installed, and with kernels of the same interface everywhere.
"""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.storage.tensors import load_tensors, save_tensors
from distill.training.optimization.eight_bit import Adam8bit, check_kernels
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes
from tests.helpers import eight_bit_kernels
from tests.helpers.alone import ALONE


@pytest.fixture(params=["stand-in", "bitsandbytes"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stand-in":
        eight_bit_kernels.install(monkeypatch)
        return
    try:
        check_kernels("adam8bit", torch.device("cpu"))
    except UserError as error:  # the library is missing, or too old for a CPU
        pytest.skip(str(error))


def updater_of(network: nn.Module, **settings: Any) -> Updater:
    chosen = OptimizerSettings(**{"name": "adamw8bit", "betas": (0.9, 0.99), **settings})
    return Updater("network", network, chosen, 1000, Processes(torch.device("cpu")))


def network_of_two_sizes(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network whose weight has 8-bit means and whose bias, which is small, has not."""
    torch.manual_seed(0)
    network = nn.Conv2d(32, 24, 3).to(memory_format=torch.channels_last)
    return network.to(dtype)


def train(network: nn.Module, updater: Updater, steps: range) -> None:
    for step in steps:
        random = torch.Generator().manual_seed(step)
        for parameter in network.parameters():
            gradient = torch.empty_like(parameter, requires_grad=False)
            parameter.grad = gradient.copy_(torch.randn(parameter.shape, generator=random) + 1)
        updater.update(step)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_updates_are_near_those_with_means_in_float32(name: str) -> None:
    network = network_of_two_sizes()
    twin, start = copy.deepcopy(network), copy.deepcopy(network)
    settings = {"lr": 1e-2, "weight_decay": 0.5}
    updater, exact = (
        updater_of(network, name=f"{name}8bit", **settings),
        updater_of(twin, name=name, **settings),
    )
    train(network, updater, range(5))
    train(twin, exact, range(5))
    for found, expected, first in zip(
        network.parameters(), twin.parameters(), start.parameters(), strict=True
    ):
        moved = expected - first
        error = (found - expected).square().mean().sqrt() / moved.square().mean().sqrt()
        assert error < (0.05 if found.ndim == 4 else 1e-4)
    tensors = updater.state_tensors()
    assert tensors["0.state1"].dtype == tensors["0.state2"].dtype == torch.uint8
    assert tensors["1.state1"].dtype == torch.float32


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_continues_from_its_state_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    network = network_of_two_sizes(dtype)
    updater = updater_of(network)
    train(network, updater, range(3))
    other = copy.deepcopy(network)
    its_updater = updater_of(other)
    save_tensors(tmp_path / "state.safetensors", updater.state_tensors())
    its_updater.restore(load_tensors(tmp_path / "state.safetensors"))
    train(network, updater, range(3, 6))
    train(other, its_updater, range(3, 6))
    found = {**other.state_dict(), **its_updater.state_tensors()}
    for key, value in {**network.state_dict(), **updater.state_tensors()}.items():
        assert torch.equal(found[key], value), key


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count(value: float) -> None:
    network = network_of_two_sizes()
    updater = updater_of(network, weight_decay=0.1)
    train(network, updater, range(2))
    before = {
        key: tensor.clone() for key, tensor in {**network.state_dict(), **updater.state_tensors()}.items()
    }
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, value)
    assert not updater.update(2).isfinite()
    for key, tensor in {**network.state_dict(), **updater.state_tensors()}.items():
        assert torch.equal(tensor, before[key] + key.endswith("step")), key


@pytest.mark.usefixtures("kernels")
def test_a_gradient_is_read_in_the_order_of_its_weight() -> None:
    network = network_of_two_sizes()
    twin = copy.deepcopy(network)
    for each, layout in ((network, torch.channels_last), (twin, torch.contiguous_format)):
        updater = updater_of(each)
        gradient = torch.randn(each.weight.shape, generator=torch.Generator().manual_seed(0))
        # Assigned as such: autograd would lay it out as the weight.
        each.weight.grad = gradient.contiguous(memory_format=layout)
        updater.update(0)
    assert torch.equal(network.weight, twin.weight)


def test_a_weight_without_rows_on_this_process_calls_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA refuses kernels of no threads."""
    eight_bit_kernels.install(monkeypatch)
    weight = torch.zeros(0, 4)
    optimizer = Adam8bit([weight], 1e-3, (0.9, 0.999), 1e-8, 0.0, decoupled=False)
    for kernel in ("optimizer_update_32bit", "optimizer_update_8bit_blockwise"):
        monkeypatch.delattr(sys.modules["bitsandbytes.functional"], kernel)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["step"] == 1
    assert optimizer.state[weight]["state1"].shape == (0,)


@pytest.mark.parametrize(
    ("network", "place"),
    [
        ("teacher", "optimizer"),
        ("autoencoder", "optimizer"),
        ("generator", "generator.optimizer"),
        ("discriminator", "discriminator.optimizer"),
    ],
)
def test_a_missing_library_is_named_with_the_setting(
    network: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that train one network have one optimiser, in `optimizer`."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = rf"^{place}\.name: adamw8bit needs bitsandbytes, which is not installed"
    with pytest.raises(UserError, match=message):
        Updater(network, nn.Linear(2, 2), OptimizerSettings(name="adamw8bit"), 1000, ALONE)


def test_a_library_without_kernels_for_the_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    eight_bit_kernels.install(monkeypatch)

    def update(**given: object) -> None:
        raise NotImplementedError("no kernel for cpu\nand much more")

    monkeypatch.setattr(sys.modules["bitsandbytes.functional"], "optimizer_update_8bit_blockwise", update)
    message = r"has no kernels of adamw8bit for cpu here \(no kernel for cpu\); expected adamw$"
    with pytest.raises(UserError, match=message):
        updater_of(nn.Linear(2, 2))
