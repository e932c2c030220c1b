"""Noise levels as quantile functions."""

import math

import pytest
import torch

from distill.noise_levels import Karras, LogNormal


def test_karras_runs_from_sigma_max_to_sigma_min() -> None:
    """Karras et al. 2022, eq. 5, at both ends and in the middle."""
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    found = Karras().noise_to_signal(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([80.0, middle, 0.002], dtype=torch.float64))


def test_karras_reads_a_part_of_the_grid() -> None:
    part = Karras(start=0.25, stop=0.75).noise_to_signal(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(part, Karras().noise_to_signal(torch.tensor([0.25, 0.75])))


def test_lognormal_has_its_mean_and_standard_deviation() -> None:
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    logs = LogNormal(mean=-1.2, std=1.2).noise_to_signal(u).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=1e-6)
    assert logs.std().item() == pytest.approx(1.2, abs=1e-3)
    assert LogNormal(mean=0.0, std=1.0).noise_to_signal(torch.tensor([0.5])).item() == 1.0
    assert LogNormal(mean=0.0, std=2.0).noise_to_signal(torch.tensor([0.841344746])).log().item() == pytest.approx(2.0, abs=1e-5)
    assert math.isfinite(LogNormal().noise_to_signal(torch.tensor([1 - 1e-7])).item())
