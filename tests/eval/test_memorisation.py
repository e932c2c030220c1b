"""Memorisation in known cases, and its mean and spread over all divisions of a small set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.metrics.memorisation import memorisation
from distill.eval.metrics.neighbours import nearest


def draw(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copies_of_either_set() -> None:
    train, held_out = draw(30, 6, seed=0), draw(10, 6, seed=1)
    assert memorisation(train, train, held_out).share == 1.0
    assert memorisation(held_out, train, held_out).share == 0.0
    assert memorisation(torch.cat([train[:6], held_out[:2]]), train, held_out).share == 0.75
    assert memorisation(train, train, held_out).expected == 0.75


def test_an_image_that_is_in_both_sets_is_not_memorised() -> None:
    # far from zero, where a matrix product rounds
    train = draw(30, 6, seed=0) + 1000
    held_out = draw(10, 6, seed=1) + 1000
    both = torch.cat([held_out, train[:5]])
    assert memorisation(train[:5], train, both).share == 0.0


def test_mean_and_deviation_are_those_of_all_divisions() -> None:
    real, made = draw(7, 2, seed=2), draw(9, 2, seed=3)
    shares = []
    for chosen in itertools.combinations(range(7), 4):
        rest = [i for i in range(7) if i not in chosen]
        found = memorisation(made, real[list(chosen)], real[rest])
        assert found.expected == pytest.approx(4 / 7, rel=1e-15)
        shares.append((found.share, found.deviation))
    values = np.array(shares)
    assert len(values) == 35
    assert values[:, 0].mean() == pytest.approx(4 / 7, rel=1e-12)
    np.testing.assert_allclose(values[:, 1], values[:, 0].std(), rtol=1e-12)
    assert values[:, 0].std() > 0.1


def test_nearest_is_exact() -> None:
    points, centres = draw(20, 4, seed=4), draw(15, 4, seed=5)
    index, squared = nearest(torch.cat([points, centres]), centres)
    direct = np.square(np.concatenate([points, centres])[:, None] - centres.numpy()[None]).sum(2)
    assert index.tolist() == direct.argmin(1).tolist()
    np.testing.assert_allclose(squared.numpy(), direct.min(1), rtol=1e-14)
    assert squared[20:].tolist() == [0.0] * 15


def test_bad_features_are_refused() -> None:
    features = draw(10, 5, seed=0)
    with pytest.raises(UserError, match=r"^features of 5 and of 4 dimensions"):
        memorisation(features, features, features[:, :4])
    with pytest.raises(UserError, match="not finite"):
        memorisation(features / 0, features, features)
