"""DMD's regression, by hand."""

import dataclasses

import pytest
import torch

from distill.networks.exact.affine import Affine
from distill.objectives.term import TermInputs
from distill.objectives.terms.regression import regression
from distill.types import Condition, Pairs, Prediction, Scores

Z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
X = torch.tensor([[4.0, 0.0], [1.0, 5.0], [2.0, 1.0]])


def student() -> TermInputs:
    """x = z + 1 for label 0 and z + (0, 3) for label 1; the differences are (-2, 1), (-1, 0), (0, 1)."""
    generator = Affine(2, label_count=2)
    generator.mean.data = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    nothing = torch.zeros(3, 2)
    scores = Scores(nothing, nothing, torch.ones(3, 1), torch.ones(3, 1), nothing, nothing, torch.zeros(3))
    return TermInputs(
        scores,
        Condition(torch.tensor([1, 1, 1])),
        generator,
        Prediction(nothing),
        pairs=Pairs(Z, Condition(torch.tensor([0, 1, 0])), X),
    )


def test_l2_is_the_mean_squared_difference_of_the_pairs() -> None:
    """Under the pairs' own labels, whatever the batch's are."""
    found = regression(student()).loss
    torch.testing.assert_close(found, torch.tensor([(4 + 1) / 2, 1 / 2, 1 / 2]))


def test_pseudo_huber_is_its_root_far_from_c_and_its_half_over_c_near_it() -> None:
    torch.testing.assert_close(
        regression(student(), "pseudo_huber", c=1.5).loss,
        torch.tensor([2.5, 0.5, 0.5]).add(2.25).sqrt() - 1.5,
    )
    torch.testing.assert_close(
        regression(student(), "pseudo_huber", c=1e-6).loss, torch.tensor([2.5, 0.5, 0.5]).sqrt()
    )
    torch.testing.assert_close(
        regression(student(), "pseudo_huber", c=100.0).loss * 200,
        torch.tensor([2.5, 0.5, 0.5]),
        rtol=1e-2,
        atol=0,
    )


def test_its_gradient_reaches_the_student_alone() -> None:
    one = student()
    regression(one).loss.sum().backward()
    torch.testing.assert_close(one.generator.mean.grad, torch.tensor([[-2.0, 2.0], [-1.0, 0.0]]))
    assert one.pairs.x.grad is None


def test_without_pairs_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="terms: regression needs pairs"):
        regression(dataclasses.replace(student(), pairs=None))
