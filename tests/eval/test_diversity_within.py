"""Diversity of the images of one condition against closed forms and lists of pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.metrics.diversity.within import (
    cosine_distance,
    recall_of_each,
    vendi_score,
    within_each,
)


def normal(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_cosine_distance_is_the_mean_over_pairs() -> None:
    features = normal(7, 5, 0)
    pairs = [
        1 - torch.nn.functional.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(features, 2)
    ]
    assert cosine_distance(features) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-12)
    equal = [cosine_distance(one.repeat(3, 1)) for one in features[:, None]]
    assert equal == [pytest.approx(0, abs=1e-15)] * 7
    assert min(equal) >= 0  # a distance of -0.0000 would be printed
    assert cosine_distance(3 * torch.eye(4).double()) == pytest.approx(1)
    assert cosine_distance(torch.stack([features[0], -2 * features[0]])) == pytest.approx(2)


@pytest.mark.parametrize("dimension", [8, 20])  # fewer and more than images: either Gram matrix
def test_a_vendi_score_in_closed_form(dimension: int) -> None:
    orthogonal = torch.eye(dimension).double() * torch.arange(1, dimension + 1)[:, None]
    assert vendi_score(orthogonal[:8]) == pytest.approx(8)
    assert vendi_score(normal(1, dimension, 0).repeat(12, 1)) == pytest.approx(1)
    # two groups of equal images, orthogonal to each other: the entropy of their shares
    groups = torch.cat([orthogonal[:1].repeat(9, 1), orthogonal[1:2].repeat(3, 1)])
    shares = torch.tensor([0.75, 0.25]).double()
    assert vendi_score(groups) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))
    # two images with the cosine c: eigenvalues (1 + c)/2 and (1 - c)/2
    pair = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).double()
    assert vendi_score(pair) == pytest.approx(
        float(torch.exp(torch.special.entr(torch.tensor([0.8, 0.2])).sum()))
    )


def test_each_condition_has_its_own_number() -> None:
    features = torch.cat([torch.eye(3).double(), torch.ones(4, 3).double(), normal(1, 3, 0)])
    conditions = torch.tensor([5, 5, 5, 2, 2, 2, 2, 9])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    found = within_each(features[order], conditions[order], vendi_score)
    assert found.conditions.tolist() == [2, 5]  # 9 has one image
    assert found.values.tolist() == pytest.approx([1, 3])
    assert found.mean == pytest.approx(2)
    assert found.standard_error == pytest.approx(2**0.5 / 2**0.5)
    assert within_each(features[:3], conditions[:3], vendi_score).standard_error is None
    with pytest.raises(UserError, match=r"^no prompt or label has two images; expected several of each$"):
        within_each(features, torch.arange(8), vendi_score)
    with pytest.raises(UserError, match=r"^features: row 1 is zero; expected a direction, for cosines$"):
        cosine_distance(torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double())


def test_recall_of_a_generator_that_repeats_itself_within_a_label() -> None:
    real = torch.cat([normal(40, 4, 0), normal(40, 4, 1) + 50])
    labels = torch.arange(80) // 40
    made = torch.cat([real[:40], real[40:41] + 0.001 * normal(40, 4, 2)])
    found = recall_of_each(made, labels, real, labels)
    assert found.conditions.tolist() == [0, 1]
    assert found.values.tolist() == [1.0, pytest.approx(1 / 40)]
    assert found.mean == pytest.approx((1 + 1 / 40) / 2)
    with pytest.raises(
        UserError, match=r"^label 1: 3 generated and 40 real images; expected at least 4 and 1, for recall$"
    ):
        recall_of_each(made[:43], labels[:43], real, labels)
