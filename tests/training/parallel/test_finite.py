"""Values that are not finite stop a run one step late, without a read of the device in between."""

import pytest
import torch

from distill.config.errors import TrainingError
from distill.training.parallel.finite import Agreement, FiniteCheck
from tests.helpers.alone import ALONE

U = torch.tensor([0.25, 0.75])
INFINITE = {"fake": torch.tensor(1.0), "gan": torch.tensor(torch.inf)}


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_noise_levels() -> None:
    check = FiniteCheck(ALONE)
    check.add_losses({"fake": torch.tensor(1.0)}, U)
    check.end_step(6)
    check.add_losses({"fake": torch.tensor(1.0)}, 1 - U / 2)
    check.add_losses(INFINITE, U)
    check.end_step(7)
    with pytest.raises(TrainingError) as error:
        check.end_step(8)
    assert str(error.value) == (
        "step 7: loss 'gan' is inf; its batch's noise levels are quantiles 0.2500 to 0.7500; "
        "the last checkpoint is untouched"
    )


def test_a_norm_that_is_not_finite_is_named() -> None:
    check = FiniteCheck(ALONE)
    check.add_norm("generator", torch.tensor(torch.nan))
    check.end_step(3)
    with pytest.raises(TrainingError, match="step 3: the norm of the generator's gradient is nan; the last"):
        check.settle()


def test_the_last_step_is_looked_at_before_anything_is_saved() -> None:
    check = FiniteCheck(ALONE)
    check.add_losses(INFINITE, U)
    check.end_step(7)
    with pytest.raises(TrainingError, match="step 7"):
        check.settle()
    check.settle()  # it is said once


def test_a_scale_that_collapsed_stops_the_run() -> None:
    check = FiniteCheck(ALONE)
    check.add_scale("fake", torch.tensor(False))
    check.end_step(0)
    check.settle()
    check.add_scale("fake", torch.tensor(True))
    check.end_step(1)
    with pytest.raises(TrainingError, match="step 1: the scale of the fake's loss is nan"):
        check.settle()


def test_an_agreement_is_read_one_step_late_but_for_the_first_and_the_last() -> None:
    agreement = Agreement()
    assert agreement.exchange(torch.tensor([0, 1]), at_once=False) == [0, 1]
    assert agreement.exchange(torch.tensor([15, 0]), at_once=False) == [0, 1]
    assert agreement.exchange(torch.tensor([0, 0]), at_once=False) == [15, 0]
    assert agreement.exchange(torch.tensor([2, 0]), at_once=True) == [2, 0]
