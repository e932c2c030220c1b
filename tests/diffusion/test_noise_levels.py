"""Distributions of the noise level against their quantile functions."""

import math

import pytest
import torch

from distill.config.errors import UserError
from distill.diffusion.noise_levels import Annealing, Karras, LogitNormal, LogNormal, Shift, Uniform, t_below
from distill.diffusion.schedules import DDPM, EDM, Flow
from distill.training.distillation.settings import GeneratorSettings
from distill.types import NoiseSchedule


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


def test_logit_normal_is_the_density_of_stable_diffusion_3() -> None:
    """Esser et al. 2024, eq. 19: its distribution function is Phi((logit(t) - mean) / std)."""
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    u = torch.special.ndtr((torch.logit(t) - 0.3) / 0.7)
    torch.testing.assert_close(LogitNormal(mean=0.3, std=0.7).t(u, Flow()), t)


def test_a_shift_moves_times_as_the_scheduler_of_diffusers_does() -> None:
    """`FlowMatchEulerDiscreteScheduler` with shift 3, on four even times."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    even = [1.0, 0.75, 0.5, 0.25]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=even)
    for levels, schedule in ((Uniform(shift=3.0), Flow()), (Uniform(shift="scheduler"), Flow(3.0))):
        found = levels.t(torch.tensor(even), schedule)
        torch.testing.assert_close(found, scheduler.sigmas[:4], rtol=1e-6, atol=1e-7)
    moved = LogitNormal(shift="scheduler").t(torch.tensor([0.5]), Flow(3.0))
    torch.testing.assert_close(moved, torch.tensor([0.75]))


@pytest.mark.parametrize("schedule", [EDM(), Flow(), DDPM.linear()], ids=["edm", "flow", "ddpm"])
def test_a_shift_multiplies_noise_to_signal(schedule: NoiseSchedule) -> None:
    t = schedule.t(torch.tensor([0.05, 0.3, 2.0], dtype=torch.float64))
    moved = schedule.shifted(t, 2.5)
    before, after = (schedule.sigma(x) / schedule.alpha(x) for x in (t, moved))
    torch.testing.assert_close(after, 2.5 * before, rtol=1e-6, atol=0)


def test_only_flow_matching_has_a_scheduler_s_shift() -> None:
    message = "noise_levels.shift: scheduler needs flow matching; expected a number for DDPM"
    with pytest.raises(UserError, match=message):
        Uniform(shift="scheduler").t(torch.tensor([0.5]), DDPM.linear())


def test_annealing_keeps_what_does_not_change() -> None:
    last = Uniform(stop=0.5, shift="scheduler")
    middle = Annealing(noise_levels=last, end_step=10).at(5, Uniform(shift="scheduler"))
    assert middle == Uniform(stop=0.75, shift="scheduler")


LIMITED = {
    "karras": (Karras(sigma_min=0.1, sigma_max=10, start=0.1, stop=0.9), EDM(), 1.3),
    "karras-flow": (Karras(sigma_min=0.1, sigma_max=10), Flow(), 0.4),
    "lognormal": (LogNormal(mean=0.2, std=0.8), EDM(), 0.7),
    "lognormal-ddpm": (LogNormal(), DDPM.linear(), 120.0),
    "uniform": (Uniform(start=0.1, stop=0.9), Flow(), 0.35),
    "uniform-shifted": (Uniform(start=0.1, stop=0.9, shift=3.0), Flow(), 0.6),
    "logit-normal": (LogitNormal(mean=0.2, shift="scheduler"), Flow(2.0), 0.6),
}


@pytest.mark.parametrize("name", LIMITED)
def test_levels_below_a_limit_have_the_distribution_of_those_that_are(name: str) -> None:
    """The share of them below any level is that of all below it, over the share of all below the limit."""
    levels, schedule, limit = LIMITED[name]
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    everywhere, below = levels.t(u, schedule), t_below(levels, u, limit, schedule)
    assert below.max() <= limit
    kept = everywhere[everywhere <= limit]
    assert 100 < len(kept) < 3900
    for level in kept[:: len(kept) // 7]:
        expected = (kept <= level).double().mean().item()
        assert (below <= level).double().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", LIMITED)
def test_the_quantile_of_a_time_is_the_inverse(name: str) -> None:
    levels, schedule, _ = LIMITED[name]
    u = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    torch.testing.assert_close(levels.quantile(levels.t(u, schedule), schedule), u)


def test_levels_that_are_all_above_a_limit_become_the_limit() -> None:
    u = torch.tensor([0.1, 0.9])
    for levels in (Karras(sigma_min=1, sigma_max=10), Karras(sigma_min=1, sigma_max=10, stop=0.5)):
        assert t_below(levels, u, 0.5, EDM()).tolist() == [0.5, 0.5]
    found = t_below(LogNormal(mean=8.0, std=0.1), u, 0.5, EDM())
    assert ((found > 0) & (found <= 0.5)).all()


def test_levels_that_are_all_below_a_limit_stay() -> None:
    u = torch.tensor([0.1, 0.5, 0.9])
    levels = Karras(sigma_min=0.1, sigma_max=2)
    torch.testing.assert_close(t_below(levels, u, 5.0, EDM()), levels.t(u, EDM()))


@pytest.mark.parametrize("name", LIMITED)
def test_samples_may_have_limits_of_their_own(name: str) -> None:
    levels, schedule, limit = LIMITED[name]
    u = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    limits = torch.tensor([limit, math.inf, limit / 2, math.inf, limit, limit / 2], dtype=torch.float64)
    found = t_below(levels, u, limits, schedule)
    for row, each in enumerate(limits.tolist()):
        alone = u[row : row + 1]
        expected = levels.t(alone, schedule) if each == math.inf else t_below(levels, alone, each, schedule)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("first", "last"), [("scheduler", 3.0), (1.0, "scheduler")])
def test_a_shift_does_not_move_between_a_number_and_a_scheduler_s(first: Shift, last: Shift) -> None:
    levels, annealing = Uniform(shift=first), Annealing(noise_levels=Uniform(shift=last), end_step=10)
    expected = "scheduler" if first == "scheduler" else "a number"
    message = f"annealing.noise_levels.shift: is {last}; expected {expected} as before"
    with pytest.raises(ValueError, match=message):
        GeneratorSettings(noise_levels=levels, annealing=annealing)


@pytest.mark.parametrize("shift", ["schedular", 0, -1.0, True, None, math.inf])
def test_a_shift_is_a_number_above_0_or_the_scheduler_s(shift: object) -> None:
    with pytest.raises(ValueError, match=f"expected a number above 0, or scheduler; found {shift!r}"):
        Uniform.model_validate({"shift": shift})
    assert Uniform.model_validate({"shift": "3"}).shift == 3.0
