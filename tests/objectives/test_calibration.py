"""Calibration of the discriminator: the predicted, the observed and the exact log-ratio."""

import math

import pytest
import torch

from distill.diffusion.schedules import EDM
from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.objectives.calibration import EDGES, Calibration, bins_of
from distill.training.distillation.build import exact_log_ratio
from distill.types import Condition

MEAN = 1.0
"""Mean of the real samples, which are N(MEAN, 1) against N(0, 1): the log-ratio at x is MEAN x - MEAN^2/2."""


def identity(total: torch.Tensor) -> torch.Tensor:
    return total


def log_ratio(x: torch.Tensor) -> torch.Tensor:
    return MEAN * x - MEAN**2 / 2


def measured(slope: float, shift: float = 0.0, count: int = 200_000) -> Calibration:
    """Return the calibration of a discriminator whose logit is slope times the log-ratio, plus a shift."""
    random = torch.Generator().manual_seed(0)
    student = torch.randn(count, generator=random)
    real = MEAN + torch.randn(count, generator=random)
    calibration = Calibration()
    calibration.add(slope * log_ratio(real) + shift, slope * log_ratio(student) + shift)
    calibration.commit(identity)
    return calibration


def test_counts_and_shares_by_hand() -> None:
    """15 of 20 real and 10 of 20 student samples have logit 1.1; the other bin has too few real ones, 5."""
    calibration = Calibration()
    calibration.add(torch.tensor([1.1] * 15 + [-0.7] * 5), torch.tensor([1.1] * 10 + [-0.7] * 10))
    calibration.commit(identity)
    table = calibration.table()
    assert table["predicted"] == pytest.approx([1.1])
    assert table["observed"] == pytest.approx([math.log(1.5)])
    assert (table["real"], table["student"]) == ([15.0], [10.0])
    assert calibration.error() == pytest.approx(1.1 - math.log(1.5))


def test_a_perfect_discriminator_is_calibrated() -> None:
    assert measured(1.0).error() < 0.02


def test_twice_the_log_ratio_is_observed_at_half_of_it() -> None:
    table = measured(2.0).table()
    halved = [value / 2 for value in table["predicted"]]
    assert table["observed"][2:-2] == pytest.approx(halved[2:-2], abs=0.1)


def test_a_constant_shift_is_the_error() -> None:
    assert measured(1.0, shift=0.4).error() == pytest.approx(0.4, abs=0.02)


def test_without_enough_samples_there_is_no_error() -> None:
    calibration = Calibration()
    assert calibration.error() is None
    calibration.add(torch.zeros(9), torch.zeros(9))
    calibration.commit(identity)
    assert calibration.error() is None
    assert calibration.table() == {"predicted": [], "observed": [], "real": [], "student": []}


@pytest.mark.parametrize("split", [[1] * 64, [40, 24]])
def test_a_split_batch_counts_the_same(split: list[int]) -> None:
    real, student = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    whole, parts = Calibration(), Calibration()
    for _ in range(3):
        whole.add(real, student)
        for one, two in zip(real.split(split), student.split(split), strict=True):
            parts.add(one, two)
        whole.commit(identity)
        parts.commit(identity)
    torch.testing.assert_close(parts.real.total, whole.real.total)
    torch.testing.assert_close(parts.student.total, whole.student.total)


def test_two_processes_count_as_one_with_both_batches() -> None:
    real, student = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    one, first_of_two = Calibration(), Calibration()
    one.add(torch.cat([real, real]), torch.cat([student, student]))
    one.commit(identity)
    first_of_two.add(real, student)
    first_of_two.commit(lambda pending: 2 * pending)  # the other process has the same batch
    torch.testing.assert_close(first_of_two.table(), one.table())


def test_logits_beyond_the_bins_are_counted_in_the_last() -> None:
    calibration = Calibration()
    calibration.add(torch.full((20,), 9.0), torch.full((20,), 7.0))
    calibration.commit(identity)
    assert calibration.table()["predicted"] == pytest.approx([7.0])


def test_a_logit_that_is_not_a_number_has_a_bin() -> None:
    """The calibration does not fail, so that the check of the losses stops the run with its own message."""
    assert bins_of(torch.tensor([float("nan"), float("inf"), 0.0, -float("inf")]), EDGES).tolist() == [
        24,
        24,
        12,
        0,
    ]


def laboratory() -> tuple[GaussianMixture, Affine]:
    """Return the teacher N((1, 0), diag(1, 1/4)) and the student N(0, I)."""
    mean, variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.25]])
    return GaussianMixture(torch.ones(1), mean, variance, EDM()), Affine(2)


def test_the_exact_log_ratio_is_that_of_the_current_student() -> None:
    teacher, student = laboratory()
    exact = exact_log_ratio(teacher, student)
    x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.3, 1.0, 2.0, 5.0])

    def log_density(mean: torch.Tensor | float, variance: torch.Tensor | float) -> torch.Tensor:
        noised = variance + t[:, None] ** 2
        return -((x_t - mean) ** 2 / noised + noised.log()).sum(1) / 2

    for mean in (0.0, 0.7):
        student.mean.data.fill_(mean)
        expected = log_density(teacher.means, teacher.variances) - log_density(mean, 1.0)
        torch.testing.assert_close(exact(x_t, t, Condition()), expected)


def test_networks_that_are_not_known_exactly_have_no_exact_log_ratio() -> None:
    assert exact_log_ratio(UNet(UNetConfig(8, 1, 10, sizes=UNetSizes(width=8, blocks=1))), Affine(2)) is None
    assert exact_log_ratio(laboratory()[0], Affine(2)) is not None


def test_the_observed_log_ratio_tends_to_the_exact_one_for_any_discriminator() -> None:
    """A logit of a third of the exact log-ratio: the observed one is exact, three times the predicted one."""
    teacher, student = laboratory()
    exact = exact_log_ratio(teacher, student)
    random = torch.Generator().manual_seed(0)
    count = 100_000
    t = 0.2 + torch.rand(count, generator=random)
    noise = t[:, None] * torch.randn(2, count, 2, generator=random)
    real_t = teacher.draw(count, random, Condition()) + noise[0]
    x_t = torch.randn(count, 2, generator=random) + noise[1]
    calibration = Calibration(exact)
    real, logits = (exact(x, t, Condition()) / 3 for x in (real_t, x_t))
    calibration.add(real, logits)
    found = calibration.compare(logits, x_t, t, Condition())
    calibration.commit(identity)
    torch.testing.assert_close(found["ratio/exact_error"], (2 * logits).abs().mean())
    table = calibration.table()
    sure = torch.minimum(torch.tensor(table["real"]), torch.tensor(table["student"])) > 1000
    observed, truth, predicted = (
        torch.tensor(table[name])[sure] for name in ("observed", "exact", "predicted")
    )
    assert len(observed) > 8
    torch.testing.assert_close(observed, truth, atol=0.1, rtol=0)
    torch.testing.assert_close(truth, 3 * predicted, atol=0.1, rtol=0.1)
