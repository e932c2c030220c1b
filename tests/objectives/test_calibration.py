"""The discriminator's log-ratio as predicted, as observed, and, in the laboratory, as it is."""

import math

import pytest
import torch

from distill.diffusion.schedules import EDM
from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.unet import UNet, UNetConfig
from distill.objectives.calibration import Calibration, bins_of
from distill.training.distillation.build import exact_log_ratio
from distill.types import Condition

MEAN = 1.0
"""Real samples are N(MEAN, 1), student samples N(0, 1): the log-ratio at x is MEAN x - MEAN^2/2."""


def identity(total: torch.Tensor) -> torch.Tensor:
    return total


def log_ratio(x: torch.Tensor) -> torch.Tensor:
    return MEAN * x - MEAN**2 / 2


def measured(slope: float, shift: float = 0.0, count: int = 200_000) -> Calibration:
    """Calibration of a discriminator that answers slope times the truth, and a shift."""
    random = torch.Generator().manual_seed(0)
    student, real = torch.randn(count, generator=random), MEAN + torch.randn(count, generator=random)
    calibration = Calibration()
    calibration.add(slope * log_ratio(real) + shift, slope * log_ratio(student) + shift)
    calibration.commit(identity)
    return calibration


def test_counts_and_shares_by_hand() -> None:
    """Of 20 real and 20 student samples, 15 and 10 have logit 1.1; 5 and 10 have another, the former too few."""
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


def test_one_that_is_too_sure_is_told_by_how_much() -> None:
    table = measured(2.0).table()
    assert table["observed"][2:-2] == pytest.approx(
        [value / 2 for value in table["predicted"]][2:-2], abs=0.1
    )


def test_one_that_is_off_by_a_constant_is_told_it() -> None:
    assert measured(1.0, shift=0.4).error() == pytest.approx(0.4, abs=0.02)


def test_without_enough_samples_there_is_no_verdict() -> None:
    calibration = Calibration()
    assert calibration.error() is None
    calibration.add(torch.zeros(9), torch.zeros(9))
    calibration.commit(identity)
    assert calibration.error() is None
    assert calibration.table() == {"predicted": [], "observed": [], "real": [], "student": []}


@pytest.mark.parametrize("split", [[1] * 64, [40, 24]])
def test_a_split_batch_and_two_processes_count_the_same(split: list[int]) -> None:
    real, student = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    whole, parts, other = Calibration(), Calibration(), Calibration()
    for _ in range(3):
        whole.add(real, student)
        for one, two in zip(real.split(split), student.split(split), strict=True):
            parts.add(one, two)
        whole.commit(identity)
        parts.commit(identity)
    torch.testing.assert_close(parts.real.total, whole.real.total)
    torch.testing.assert_close(parts.student.total, whole.student.total)
    other.add(torch.cat([real, real]), torch.cat([student, student]))
    other.commit(identity)
    first = Calibration()
    first.add(real, student)
    first.commit(lambda pending: 2 * pending)  # another process has the same
    torch.testing.assert_close(first.table(), other.table())


def test_logits_beyond_the_bins_are_counted_in_the_last() -> None:
    calibration = Calibration()
    calibration.add(torch.full((20,), 9.0), torch.full((20,), 7.0))
    calibration.commit(identity)
    assert calibration.table()["predicted"] == pytest.approx([7.0])


def test_a_logit_that_is_not_a_number_has_a_bin() -> None:
    """So that it is the check of the losses that stops the run, and says where."""
    assert bins_of(torch.tensor([float("nan"), float("inf"), 0.0, -float("inf")])).tolist() == [24, 24, 12, 0]


def laboratory() -> tuple[GaussianMixture, Affine]:
    """Teacher N((1, 0), diag(1, 1/4)), student N(0, I)."""
    return GaussianMixture(
        torch.ones(1), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.25]]), EDM()
    ), Affine(2)


def test_the_exact_log_ratio_is_that_of_the_student_as_it_is_now() -> None:
    teacher, student = laboratory()
    exact = exact_log_ratio(teacher, student)
    x_t, t = (
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.1, 0.3, 1.0, 2.0, 5.0]),
    )
    for mean in (0.0, 0.7):
        student.mean.data.fill_(mean)
        log_p = (
            -(
                (x_t - teacher.means) ** 2 / (teacher.variances + t[:, None] ** 2)
                + (teacher.variances + t[:, None] ** 2).log()
            ).sum(1)
            / 2
        )
        log_q = -((x_t - mean) ** 2 / (1 + t[:, None] ** 2) + (1 + t[:, None] ** 2).log()).sum(1) / 2
        torch.testing.assert_close(exact(x_t, t, Condition()), log_p - log_q)


def test_networks_that_are_not_known_exactly_have_no_exact_log_ratio() -> None:
    assert exact_log_ratio(UNet(UNetConfig(8, 1, 10, width=8, blocks=1)), Affine(2)) is None
    assert exact_log_ratio(laboratory()[0], Affine(2)) is not None


def test_what_is_observed_tends_to_the_exact_ratio_whatever_the_discriminator_says() -> None:
    """A discriminator of a third of the true log-ratio: its bins' observed log-ratio is the exact one, three times what it predicts."""
    teacher, student = laboratory()
    exact = exact_log_ratio(teacher, student)
    random = torch.Generator().manual_seed(0)
    count = 100_000
    t = 0.2 + torch.rand(count, generator=random)
    noise = t[:, None] * torch.randn(2, count, 2, generator=random)
    real_t, x_t = (
        teacher.draw(count, random, Condition()) + noise[0],
        torch.randn(count, 2, generator=random) + noise[1],
    )
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
