"""Random numbers and batches are the same to the bit on a GPU and on the CPU."""

import dataclasses

import pytest
import torch

from distill.data.sources.digits import Settings as Digits
from distill.diffusion.counter_random import CounterRandom
from distill.training.batches import Batches

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
SAMPLES = torch.tensor([0, 1, 7, 2**31, 2**32 - 1])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_normal_numbers_are_equal_to_the_bit(device: torch.device, compiled: bool) -> None:
    random = CounterRandom(2**63 + 5, 9, compiled)
    on_cpu = CounterRandom(2**63 + 5, 9).normal((0, 3), SAMPLES, 3 * 32 * 32)
    assert torch.equal(random.normal((0, 3), SAMPLES.to(device), 3 * 32 * 32).cpu(), on_cpu)


def test_uniform_and_whole_numbers_are_equal_to_the_bit(device: torch.device) -> None:
    random = CounterRandom(11, 2)
    uniform = random.uniform((4, 5), SAMPLES.to(device), 6)
    assert torch.equal(uniform.cpu(), random.uniform((4, 5), SAMPLES, 6))
    whole = random.below(1000, 6, SAMPLES.to(device))
    assert torch.equal(whole.cpu(), random.below(1000, 6, SAMPLES))


def test_many_samples_drawn_in_parts_are_equal_to_the_bit(device: torch.device) -> None:
    """The CPU draws these in several parts, and a GPU in one."""
    random, samples = CounterRandom(0, 0), torch.arange(500)
    assert torch.equal(
        random.normal((0,), samples.to(device), 1024).cpu(), random.normal((0,), samples, 1024)
    )


def test_a_batch_is_equal_to_the_bit(device: torch.device) -> None:
    drawn = []
    for place in (CPU, device):
        own = ("gan_noise", "discriminator_noise", "real_noise")
        batches = Batches((1, 8, 8), 10, Digits().load("train"), 16, 3, place, own_noise=own)
        drawn.append(next(batches.starting_at(5)))
    expected, found = drawn
    for field in ("z", "u", "eps", "u_fake", "eps_fake", "real", "eps_real", "crop_positions"):
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field
    assert found.cond.label is not None
    assert torch.equal(found.cond.label.cpu(), expected.cond.label)
    for field in own:
        for part in dataclasses.fields(getattr(expected, field)):
            on_device = getattr(getattr(found, field), part.name)
            assert torch.equal(on_device.cpu(), getattr(getattr(expected, field), part.name)), part.name
