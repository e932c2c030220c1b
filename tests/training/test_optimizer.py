"""Updates of parameters after the backward pass: clipped gradients and the moving average."""

import math

import pytest
import torch
from accelerate import Accelerator

from distill.training.optimization.ema import EMA
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater


def test_a_gradient_is_clipped_by_value_element_by_element() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    settings = OptimizerSettings(name="adam", lr=1.0, betas=(0.0, 0.0), eps=1.0, clip_grad_value=0.5)
    updater = Updater("network", network, settings, 10, Accelerator(cpu=True))
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[0.25, -3.0]])
    assert updater.update(0).item() == pytest.approx(math.hypot(0.25, 3.0))
    # Adam without memory moves by g / (|g| + eps).
    torch.testing.assert_close(before - network.weight.detach(), torch.tensor([[0.25 / 1.25, -0.5 / 1.5]]))


def test_an_average_of_decay_0_is_the_network_itself() -> None:
    network = torch.nn.Linear(2, 2)
    average = EMA(network, 0.0)
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    average.update()
    assert torch.equal(average.average.weight, network.weight)
