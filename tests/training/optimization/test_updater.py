"""Updates of parameters from their gradients: clipped, and skipped if not finite, without waiting."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.processes import Processes
from tests.helpers.dispatched import Dispatched
from tests.helpers.two_processes import TwoProcesses

KINDS: list[dict[str, Any]] = [
    {"name": "adam"},
    {"name": "adamw", "weight_decay": 0.1},
    {"name": "adam", "offload": True},
]
PLAIN = {"name": "adam", "lr": 1.0, "betas": (0.0, 0.0), "eps": 1.0}
"""Adam without memory, which moves a weight by g / (|g| + 1)."""


def updater_of(network: nn.Module, processes: Any = None, **settings: Any) -> Updater:
    processes = processes or Processes(torch.device("cpu"))
    return Updater("network", network, OptimizerSettings(**settings), 10, processes)


def set_gradients(network: nn.Module, seed: int, factor: float = 1.0) -> None:
    """Give every parameter a random gradient."""
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        gradient = factor * torch.randn(parameter.shape, generator=random)
        parameter.grad = gradient.to(parameter.dtype).reshape(parameter.shape)


def small_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


def tensors_of(network: nn.Module, updater: Updater) -> dict[str, Tensor]:
    """Return copies of everything that an update changes."""
    both = {**network.state_dict(), **updater.state_tensors()}
    return {name: tensor.clone() for name, tensor in both.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_gradient_is_clipped_by_value_element_by_element() -> None:
    network = nn.Linear(2, 1, bias=False)
    updater = updater_of(network, **PLAIN, clip_grad_value=0.5)
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[0.25, -3.0]])
    assert updater.update(0).item() == pytest.approx(math.hypot(0.25, 3.0))
    torch.testing.assert_close(before - network.weight.detach(), torch.tensor([[0.25 / 1.25, -0.5 / 1.5]]))


def test_a_gradient_is_scaled_down_to_its_maximum_norm() -> None:
    network = nn.Linear(2, 1, bias=False)
    updater = updater_of(network, **PLAIN, clip_grad_norm=1.0)
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[3.0, -4.0]])
    assert updater.update(0).item() == pytest.approx(5.0)
    torch.testing.assert_close(before - network.weight.detach(), torch.tensor([[0.6 / 1.6, -0.8 / 1.8]]))


@pytest.mark.parametrize("settings", [*KINDS, {"clip_grad_norm": 0.5}, {"clip_grad_value": 0.1}])
def test_updates_are_those_of_torch_to_the_bit(settings: dict[str, Any]) -> None:
    network = small_network()
    twin = copy.deepcopy(network)
    updater = updater_of(network, lr=1e-2, betas=(0.9, 0.99), **settings)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[updater.settings.name]
    decay = updater.settings.weight_decay
    expected = kind(twin.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    for step in range(3):
        set_gradients(network, step)
        set_gradients(twin, step)
        maximum = updater.settings.clip_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(twin.parameters(), maximum)
        if updater.settings.clip_grad_value is not None:
            nn.utils.clip_grad_value_(twin.parameters(), updater.settings.clip_grad_value)
        expected.step()
        assert torch.equal(updater.update(step), norm)
    assert_equal(network.state_dict(), twin.state_dict())


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", KINDS)
def test_a_gradient_that_is_not_finite_changes_nothing(
    settings: dict[str, Any], dtype: torch.dtype, value: float
) -> None:
    network = small_network(dtype)
    updater = updater_of(network, lr=1e-2, betas=(0.9, 0.99), **settings)
    set_gradients(network, 0)
    updater.update(0)
    before = tensors_of(network, updater)
    set_gradients(network, 1)
    network[1].bias.grad[0] = value
    assert not updater.update(1).isfinite()
    assert_equal(tensors_of(network, updater), before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_skipped_update_does_not_count() -> None:
    network, twin = small_network(), small_network()
    updater, other = updater_of(network), updater_of(twin)
    set_gradients(network, 0, math.inf)
    updater.update(0)
    set_gradients(network, 1)
    set_gradients(twin, 1)
    updater.update(0)
    other.update(0)
    assert_equal(tensors_of(network, updater), tensors_of(twin, other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_reads_nothing_and_takes_few_operations(dtype: torch.dtype) -> None:
    """Their number does not grow with that of the parameters, apart from the memory for gradients."""
    counts = []
    for depth in (2, 20):
        network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth))).to(dtype)
        updater = updater_of(network, clip_grad_norm=1.0, clip_grad_value=1.0)
        for step in range(2):  # the first one makes the optimiser's state
            set_gradients(network, step)
            with Dispatched() as dispatched:
                updater.update(step)
        names = [name for name, _ in dispatched.calls if name != "empty_like"]
        assert "_local_scalar_dense" not in names
        counts.append(len(names))
    assert counts[0] == counts[1] < 30


def test_without_clipping_no_gradient_is_multiplied() -> None:
    network = small_network()
    updater = updater_of(network)
    set_gradients(network, 0)
    with Dispatched() as dispatched:
        updater.update(0)
    assert "_foreach_mul_" not in [name for name, _ in dispatched.calls]


def test_parameters_without_a_gradient_stay() -> None:
    network = small_network()
    updater = updater_of(network, weight_decay=0.1, lr=0.1)
    before = tensors_of(network, updater)
    assert updater.update(0).item() == 0.0
    assert_equal(tensors_of(network, updater), before)
    network[0].bias.grad = torch.ones(4)
    assert updater.update(0).item() == 2.0
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.bias"}


def test_processes_average_their_gradients_in_float32() -> None:
    """A parameter without gradient takes part: the other process may have one."""
    network = nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(1, 1)}).to(torch.bfloat16)
    processes = TwoProcesses()
    updater = updater_of(network, processes, **PLAIN)
    network["a"].weight.grad = torch.tensor([[6.0, -8.0]], dtype=torch.bfloat16)
    assert updater.update(0).item() == 5.0
    (summed,) = processes.summed
    assert summed.dtype == torch.float32
    assert summed[summed != 0].tolist() == [6.0, -8.0]
    assert {name.split(".")[0] for name in updater.state_tensors()} == {"0", "1", "2"}


def test_averaged_gradients_are_laid_out_in_memory_as_their_weights() -> None:
    network = nn.Conv2d(2, 2, 2, bias=False).to(memory_format=torch.channels_last)
    updater = updater_of(network, TwoProcesses(), **PLAIN)
    before = network.weight.detach().clone()
    gradient = torch.arange(16.0).view(2, 2, 2, 2)
    network.weight.grad = gradient.to(memory_format=torch.channels_last)
    updater.update(0)
    torch.testing.assert_close(before - network.weight.detach(), (gradient / 2) / (gradient / 2 + 1))


def test_state_is_laid_out_in_memory_as_its_weights() -> None:
    """A checkpoint's tensors are contiguous, and the fused kernels want all tensors in one layout."""
    network = nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
    updater = updater_of(network)
    set_gradients(network, 0)
    updater.update(0)
    updater.restore({name: tensor.contiguous() for name, tensor in updater.state_tensors().items()})
    assert updater.state_tensors()["0.exp_avg"].stride() == network.weight.stride()


def test_offloading_goes_with_adam_and_adamw() -> None:
    with pytest.raises(ValidationError, match="offload: true does not go with adam8bit; expected name: adam"):
        OptimizerSettings(name="adam8bit", offload=True)
