"""Noise schedules against the definitions of their papers."""

import pytest
import torch

from distill.diffusion.schedules import DDPM, EDM, Flow

DDPM_STEPS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


@pytest.mark.parametrize(
    ("schedule", "times"), [(EDM(), (0.002, 80.0)), (Flow(), (0.001, 0.999)), (DDPM.linear(), (0.0, 999.0))]
)
def test_time_inverts_noise_to_signal(schedule: EDM | Flow | DDPM, times: tuple[float, float]) -> None:
    t = torch.linspace(*times, 501, dtype=torch.float64)
    torch.testing.assert_close(schedule.t(schedule.sigma(t) / schedule.alpha(t)), t, rtol=1e-9, atol=1e-9)


def test_ddpm_is_the_cumulative_product_of_one_minus_beta() -> None:
    """Ho et al. 2020: alpha_t^2 = prod (1 - beta_s). The variance is preserved, also between the steps."""
    schedule = DDPM.linear()
    t = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2, DDPM_STEPS)
    between = t[:-1] + 0.3
    torch.testing.assert_close(
        schedule.alpha(between) ** 2 + schedule.sigma(between) ** 2, torch.ones(999, dtype=torch.float64)
    )
    assert schedule.t_max == 999


def test_ddpm_holds_its_ends() -> None:
    schedule = DDPM.linear()
    torch.testing.assert_close(schedule.t(torch.tensor([1e-9, 1e9])), torch.tensor([0.0, 999.0]))
    torch.testing.assert_close(schedule.sigma(torch.tensor([1005.0])), schedule.sigma(torch.tensor([999.0])))


def test_ddpm_refuses_a_schedule_that_rises() -> None:
    with pytest.raises(ValueError, match="expected to fall strictly"):
        DDPM.of(torch.tensor([0.9, 0.95]))


def test_flow_is_a_straight_line() -> None:
    t = torch.tensor([0.25, 1.0])
    assert torch.equal(Flow().alpha(t) + Flow().sigma(t), torch.ones(2))
    assert Flow().t(torch.tensor(3.0)).item() == 0.75
