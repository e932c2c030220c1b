"""Precision and recall against a brute-force search, and in known cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.metrics import neighbours
from distill.eval.metrics.precision_recall import Manifold, precision_recall
from distill.eval.metrics.torchmetrics import PrecisionRecall


def brute_force(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, float]:
    """Compute Kynkäänniemi et al. 2019, eq. 1 to 3, by loops."""

    def share_inside(points: np.ndarray, balls: np.ndarray) -> float:
        inside = 0
        for point in points:
            for i, centre in enumerate(balls):
                others = [np.square(centre - other).sum() for j, other in enumerate(balls) if j != i]
                if np.square(point - centre).sum() <= sorted(others)[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    return {"precision": share_inside(made, real), "recall": share_inside(real, made)}


def draw(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(real: Tensor, made: Tensor, k: int = 3) -> dict[str, float]:
    return precision_recall(Manifold.of(real, k), Manifold.of(made, k))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 100)  # several blocks, the last one smaller
    real, made = draw(40, 5, seed=0), 0.9 * draw(55, 5, seed=1) + 1
    expected = brute_force(real.numpy(), made.numpy(), k)
    assert 0.1 < expected["precision"] < 0.99  # the case tells something
    assert 0.1 < expected["recall"] < 0.99
    assert measure(real, made, k) == expected


def test_agrees_with_brute_force_on_ties_and_duplicates() -> None:
    random = torch.Generator().manual_seed(2)
    real, made = (torch.randint(0, 4, (count, 3), generator=random).double() for count in (30, 25))
    expected = brute_force(real.numpy(), made.numpy(), 3)
    assert measure(real, made) == expected


def test_identical_sets_and_disjoint_sets() -> None:
    real = draw(50, 8, seed=3)
    assert measure(real, real) == {"precision": 1.0, "recall": 1.0}
    assert measure(real, real + 100) == {"precision": 0.0, "recall": 0.0}


def test_a_generator_of_one_mode_is_precise_and_recalls_little() -> None:
    modes = torch.tensor([[0.0] * 8, [100.0] * 8, [200.0] * 8, [300.0] * 8]).double()
    real = torch.cat([mode + 0.1 * draw(25, 8, seed=i) for i, mode in enumerate(modes)])
    assert measure(real, real[:25]) == {"precision": 1.0, "recall": 0.25}


def test_the_kth_neighbour_itself_is_inside_far_from_zero() -> None:
    features = draw(60, 16, seed=4) + 1000  # a matrix product rounds differently for every pair here
    manifold = Manifold.of(features)
    order = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").argsort(1)
    for row in range(60):
        ball = Manifold(features[row : row + 1], manifold.squared_radii[row : row + 1])
        assert ball.contains(features[order[row, :5]]).tolist() == [True, True, True, True, False]


def test_metric_agrees_with_the_function_and_reduces_over_processes() -> None:
    real, made = draw(40, 5, seed=0), draw(55, 5, seed=1)
    metric = PrecisionRecall(real)
    for batch in made.split(7):
        metric.update(batch)
    assert metric.compute() == measure(real, made)

    first = PrecisionRecall(real)
    others = {2: made[20:], 1: torch.zeros(35, dtype=torch.int64)}  # features and rows
    first.dist_sync_fn = lambda tensor, group=None: [tensor, others[tensor.ndim]]
    first.distributed_available_fn = lambda: True
    first.update(made[:20])
    assert first.compute() == measure(real, made)


def test_bad_features_are_refused() -> None:
    real = draw(10, 5, seed=0)
    with pytest.raises(
        UserError, match=r"^3 images; expected at least 4 for precision and recall with 3 neighbours$"
    ):
        Manifold.of(real[:3])
    with pytest.raises(
        UserError, match=r"^features of 4 and of 5 dimensions; expected the same features on both sides$"
    ):
        measure(real, real[:, :4])
    with pytest.raises(UserError, match=r"^features: 1 of 10 rows are not finite, first row 9$"):
        Manifold.of(torch.cat([real[:9], real[:1] * float("nan")]))
    with (
        pytest.raises(UserError, match="no generated images were given"),
        pytest.warns(UserWarning, match="before the ``update``"),
    ):
        PrecisionRecall(real).compute()
