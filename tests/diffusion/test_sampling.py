"""Samplers against closed forms, and that an image depends on its own seed alone."""

import itertools
import math

import pytest
import torch

from distill.diffusion.random import seeded
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher, seeded_noise, spread
from distill.types import Condition, Generator, expand_like
from tests.helpers.gaussian_teacher import GaussianTeacher


class Scaled(Generator):
    """x_0 = 2 z + label."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.label_count = (1, 2, 2), 3
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, z: torch.Tensor, cond: Condition) -> torch.Tensor:
        return self.scale * z + expand_like(cond.label.float(), z)


def test_heun_solves_the_ode_of_gaussian_data() -> None:
    """The ODE maps sigma_max z to mean + std (sigma_max z - mean) / sqrt(std^2 + sigma_max^2).

    The error falls with the square of the step.
    """
    z = torch.randn(16, 1, 2, 2, dtype=torch.float64)
    teacher = GaussianTeacher()
    exact = 0.5 + 0.4 * (80 * z - 0.5) / math.sqrt(0.4**2 + 80**2)
    errors = []
    for steps in (40, 80, 160):
        found = Heun(steps=steps).solve(teacher, z, Condition(), lambda step: torch.zeros(()))
        errors.append((found - exact).abs().max().item())
    assert errors[2] < 1e-3
    assert 3 < errors[0] / errors[1] < 5
    assert 3 < errors[1] / errors[2] < 5


def test_an_anchored_path_goes_on_in_a_straight_line() -> None:
    """From level L_k of the exact path of Gaussian data, x_0 = (x_k - L_k z) L_0/(L_0 - L_k)."""
    z = torch.randn(16, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler, teacher = Heun(steps=160), GaussianTeacher()
    level = sampler.grid()[70]
    assert 1 < level < 10
    at_level = 0.5 + math.sqrt((0.4**2 + level**2) / (0.4**2 + 80**2)) * (80 * z - 0.5)
    found = sampler.solve(teacher, z, Condition(), lambda step: torch.zeros(()), anchor=70)
    torch.testing.assert_close(found, (at_level - level * z) * 80 / (80 - level), rtol=0, atol=2e-3)
    assert teacher.calls == 140
    whole = sampler.solve(teacher, z, Condition(), lambda step: torch.zeros(()), anchor=160)
    assert torch.equal(whole, sampler.solve(teacher, z, Condition(), lambda step: torch.zeros(())))


def test_an_anchored_target_is_the_velocity_of_dp_dmd() -> None:
    """Their target v = (z - x_{t_k})/(1 - t_k) in a flow's time, integrated there by Euler's method."""
    z = torch.randn(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler = Heun(steps=200, sigma_max=3000.0)
    level = sampler.grid()[110]
    found = sampler.solve(GaussianTeacher(), z, Condition(), lambda step: torch.zeros(()), anchor=110)
    times = torch.linspace(1, level / (1 + level), 20001, dtype=torch.float64).tolist()
    x_t = z
    for t, following in itertools.pairwise(times):
        variance = (1 - t) ** 2 * 0.4**2 + t**2
        x0 = 0.5 + (1 - t) * 0.4**2 / variance * (x_t - (1 - t) * 0.5)
        x_t = x_t + (following - t) * (x_t - x0) / t
    velocity = (z - x_t) / (1 - times[-1])
    torch.testing.assert_close(found, z - velocity, rtol=0, atol=3e-3)


def test_eighteen_steps_are_thirty_five_evaluations() -> None:
    teacher = GaussianTeacher()
    sample_teacher(teacher, range(4), Condition(), Heun())
    assert teacher.calls == 35 == Heun().evaluations


def test_heun_s_grid_is_that_of_karras() -> None:
    grid = Heun(steps=3).grid()
    assert grid == pytest.approx([80.0, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.002, 0.0])


@pytest.mark.parametrize("churn", [0.0, 20.0])
def test_samples_of_gaussian_data_have_its_moments(churn: float) -> None:
    sampler = Heun(steps=128, churn=churn, churn_max=50.0)
    images = sample_teacher(GaussianTeacher(), range(1000), Condition(), sampler, batch_size=1000)
    assert images.mean().item() == pytest.approx(0.5, abs=0.015)
    assert images.std().item() == pytest.approx(0.4, abs=0.015)


@pytest.mark.parametrize("churn", [0.0, 20.0])
def test_an_image_of_the_teacher_depends_on_its_own_seed_alone(churn: float) -> None:
    sampler = Heun(steps=5, churn=churn)
    together = sample_teacher(GaussianTeacher(), range(10, 17), Condition(), sampler, batch_size=7)
    apart = sample_teacher(GaussianTeacher(), range(10, 17), Condition(), sampler, batch_size=2)
    assert torch.equal(together, apart)
    assert torch.equal(together[3:4], sample_teacher(GaussianTeacher(), [13], Condition(), sampler))


def test_an_image_of_a_generator_depends_on_its_own_seed_and_label_alone() -> None:
    cond = balanced_labels(7, 3)
    together = sample_generator(Scaled(), range(7), cond, batch_size=7)
    assert torch.equal(together, sample_generator(Scaled(), range(7), cond, batch_size=3))
    assert torch.equal(together[4:5], sample_generator(Scaled(), [4], cond[4:5]))
    assert torch.equal(together[4], 2 * seeded_noise([4], (1, 2, 2))[0] + 1)


def test_noise_of_another_stream_is_other_noise() -> None:
    assert not torch.equal(seeded_noise([0, 1], (4,)), seeded_noise([0, 1], (4,), stream=1))


def test_labels_are_balanced() -> None:
    assert balanced_labels(12, 5).label.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert balanced_labels(12, 0).label is None


def test_images_are_spread_over_all_data() -> None:
    assert spread(range(4), 10).tolist() == [0, 7, 4, 1]
    assert sorted(spread(range(20), 10).tolist()) == sorted([*range(10)] * 2)
    for count in (1, 2, 3, 6, 100):
        assert sorted(spread(range(count), count).tolist()) == list(range(count))


def test_keys_give_unrelated_numbers() -> None:
    drawn = [torch.randn(1000, generator=seeded(*key)) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0)]]
    table = torch.corrcoef(torch.stack(drawn))
    assert (table - torch.eye(4)).abs().max() < 0.15
    assert torch.equal(drawn[0], torch.randn(1000, generator=seeded(0, 0)))
