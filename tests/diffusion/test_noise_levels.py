"""Distributions of the noise level against their quantile functions."""

import math

import pytest
import torch

from distill.config.errors import UserError
from distill.diffusion.noise_levels import Karras, LogNormal, Uniform
from distill.diffusion.schedules import EDM, Flow


def test_karras_runs_from_sigma_max_to_sigma_min() -> None:
    """Karras et al. 2022, eq. 5, at both ends and in the middle."""
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    found = Karras().t(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), EDM())
    torch.testing.assert_close(found, torch.tensor([80.0, middle, 0.002], dtype=torch.float64))


def test_karras_reads_a_part_of_the_grid() -> None:
    """A quarter and three quarters of the way from 80^(1/7) = 1.8701223 to 0.002^(1/7) = 0.4115597.

    These are 1.5054816 and 0.7762003, and the noise levels are their seventh powers.
    """
    part = Karras(start=0.25, stop=0.75).t(torch.tensor([0.0, 1.0]), EDM())
    torch.testing.assert_close(part, torch.tensor([17.527832, 0.169753]), rtol=1e-5, atol=0)


def test_lognormal_has_its_mean_and_standard_deviation() -> None:
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    logs = LogNormal(mean=-1.2, std=1.2).t(u, EDM()).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=1e-6)
    assert logs.std().item() == pytest.approx(1.2, abs=1e-3)
    assert LogNormal(mean=0.0, std=1.0).t(torch.tensor([0.5]), EDM()).item() == 1.0
    one_std_above = torch.tensor([0.841344746])
    log_level = LogNormal(mean=0.0, std=2.0).t(one_std_above, EDM()).log().item()
    assert log_level == pytest.approx(2.0, abs=1e-5)
    assert math.isfinite(LogNormal().t(torch.tensor([1 - 1e-7]), EDM()).item())


def test_levels_are_noise_to_signal_ratios_whatever_the_schedule() -> None:
    """Half of LogNormal(0, 1) lies below sigma/alpha = 1, which is t = 1/2 of the rectified flow."""
    assert LogNormal(mean=0.0, std=1.0).t(torch.tensor([0.5]), Flow()).item() == 0.5


def test_uniform_is_uniform_in_time() -> None:
    found = Uniform(start=0.02, stop=0.98).t(torch.tensor([0.0, 0.5, 1.0]), Flow())
    torch.testing.assert_close(found, torch.tensor([0.02, 0.5, 0.98]))


def test_uniform_refuses_a_schedule_without_end() -> None:
    message = "uniform needs a schedule that ends; expected karras or lognormal for EDM"
    with pytest.raises(UserError, match=message):
        Uniform().t(torch.tensor([0.5]), EDM())
