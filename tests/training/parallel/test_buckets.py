"""Buckets of gradients that are averaged over processes while the backward pass runs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from distill.training.distillation.losses import frozen
from distill.training.optimization.masters import Masters
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater, expect_last_backward
from distill.training.parallel.buckets import GradientBuckets
from distill.training.parallel.processes import Processes
from tests.helpers.two_processes import TwoProcesses

X = torch.ones(1, 2)


def updater_of(network: nn.Module, processes: Processes) -> Updater:
    return Updater("network", network, OptimizerSettings(lr=0.1), 10, processes)


def buckets_of(parameters: Sequence[Tensor], processes: Processes, bucket_bytes: int) -> GradientBuckets:
    given = dict(enumerate(parameters))
    return GradientBuckets(given, processes, Masters(parameters).move_gradients, bucket_bytes)


def test_buckets_have_the_last_parameters_first_up_to_their_size_and_one_type_each() -> None:
    sizes = [(3, torch.float32), (4, torch.float32), (5, torch.float64), (2, torch.bfloat16)]
    parameters = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
    buckets = buckets_of(parameters, TwoProcesses(), bucket_bytes=32).buckets
    assert [bucket.indices for bucket in buckets] == [[2], [3, 1], [0]]
    assert [bucket.dtype for bucket in buckets] == [torch.float64, torch.float32, torch.float32]


def test_a_bucket_is_averaged_as_one_tensor_and_frees_its_gradients() -> None:
    """The second process has gradients of zero."""
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2, 1))]
    processes = TwoProcesses()
    buckets = buckets_of(parameters, processes, bucket_bytes=1000)
    parameters[0].grad, parameters[1].grad = torch.tensor([6.0]), torch.tensor([[2.0], [4.0]])
    averaged = buckets.finish()
    (summed,) = processes.summed
    assert summed[summed != 0].tolist() == [2.0, 4.0, 6.0]
    assert averaged[0].tolist() == [3.0]
    assert averaged[1].tolist() == [[1.0], [2.0]]
    assert parameters[0].grad is parameters[1].grad is None


def test_only_an_expected_backward_pass_starts_sums() -> None:
    network, processes = nn.Linear(2, 2), TwoProcesses()
    updater = updater_of(network, processes)
    network(X).sum().backward()
    assert processes.summed == []
    expect_last_backward([updater])
    network(X).sum().backward()
    assert len(processes.summed) == 1
    assert network.weight.grad is None
    updater.update(0)
    network(X).sum().backward()
    assert len(processes.summed) == 1


def test_gradients_of_micro_batches_before_the_expected_one_are_included() -> None:
    network, processes = nn.Linear(2, 1, bias=False), TwoProcesses()
    updater = updater_of(network, processes)
    network(X).sum().backward()
    expect_last_backward([updater])
    network(2 * X).sum().backward()
    assert processes.summed[0].tolist() == [3.0, 3.0, 0.0, 0.0]
    assert updater.update(0).item() == pytest.approx(1.5 * 2**0.5)


def test_gradients_for_a_metric_or_a_penalty_start_no_sums() -> None:
    """They are differentiated with respect to inputs, and one keeps its graph."""
    network, processes = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Softplus()), TwoProcesses()
    updater = updater_of(network, processes)
    x = X.clone().requires_grad_()
    expect_last_backward([updater])
    loss = network(x).sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert processes.summed == []
    (loss + gradient.square().sum()).backward()
    assert len(processes.summed) == 1
    assert updater.update(0).item() > 0


def test_a_network_that_is_frozen_for_a_while_starts_its_sums_afterwards() -> None:
    network, processes = nn.Linear(2, 2), TwoProcesses()
    updater = updater_of(network, processes)
    x = X.clone().requires_grad_()
    with frozen(network):
        network(x).sum().backward()
    expect_last_backward([updater])
    network(x).sum().backward()
    assert len(processes.summed) == 1


def test_a_backward_pass_that_another_network_expects_leaves_gradients_where_they_are() -> None:
    network, other, processes = nn.Linear(2, 2), nn.Linear(2, 2), TwoProcesses()
    updater, its_updater = updater_of(network, processes), updater_of(other, processes)
    expect_last_backward([its_updater])
    (network(X) + other(X)).sum().backward()
    assert len(processes.summed) == 1
    assert network.weight.grad is not None
    assert other.weight.grad is None
    assert updater.update(0) == its_updater.update(0)


def test_a_second_gradient_in_one_backward_pass_is_refused() -> None:
    """It would be lost: the first may have been averaged."""
    network = nn.Linear(2, 2)
    expect_last_backward([updater_of(network, TwoProcesses())])
    network(X).sum().backward()
    with pytest.raises(RuntimeError, match="a parameter got a second gradient in one backward pass"):
        network(X).sum().backward()


def test_one_process_has_no_buckets_and_no_hooks() -> None:
    network = nn.Linear(2, 2)
    updater = updater_of(network, Processes(torch.device("cpu")))
    expect_last_backward([updater])
    assert updater.buckets is None
    assert all(parameter._post_accumulate_grad_hooks is None for parameter in network.parameters())
