"""Statistics of many draws against those of each draw alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics import drawn_statistics
from distill.eval.metrics.drawn_statistics import statistics_of_draws
from distill.eval.metrics.frechet_limit import bootstrap_deviation, frechet_limit
from distill.eval.metrics.subsets import resampled, shuffled


def normal(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize("cost", [0, 1, 10**6])  # all draws in one group, several groups, one group for each
def test_each_draw_has_its_own_statistics(block: int, cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_statistics, "BLOCK", block)
    monkeypatch.setattr(drawn_statistics, "ROWS_OF_AN_ADDITION", cost)
    features = normal(300, 7, 0) * torch.logspace(0, -3, 7) + 1000
    subsets = [shuffled(300, seed=count)[:count] for count in (2, 40, 150, 200, 299, 300)]
    drawn = [*subsets, *(resampled(300, seed) for seed in range(4))]
    weights = [rows.bincount(minlength=300) for rows in drawn]
    found = dict(statistics_of_draws(features, weights))
    assert sorted(found) == list(range(10))
    for number, rows in enumerate(drawn):
        expected = Statistics.of(features[rows])
        assert found[number].count == len(rows)
        torch.testing.assert_close(found[number].mean, expected.mean, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(found[number].cov, expected.cov, rtol=0, atol=1e-13)


def test_one_pass_serves_several_draws() -> None:
    """The published limit has 15 subsets, whose images are 8 times all images; two passes are enough."""
    total = 50_000
    counts = torch.linspace(5000, total, 15).long().tolist()
    draws = [shuffled(total, seed=count)[:count].bincount(minlength=total) for count in counts]
    groups = drawn_statistics._group(draws)
    assert sum(group.cost for group in groups) < 2.2 * total < sum(counts) / 3
    for group in groups:
        rows = group.weights.tolist()
        # A sum over the cells that agree up to a draw is added to that draw, and to a draw before it.
        agreeing = {tuple(row[: draw + 1]) for row in rows for draw in range(len(row)) if row[draw]}
        assert group.additions == 2 * len(agreeing)


def test_the_limit_and_the_bootstrap_are_those_of_separate_draws() -> None:
    features, real = normal(400, 5, 1) + 0.3, Statistics.of(normal(500, 5, 2))
    limit = frechet_limit(features, real)
    alone = [
        frechet_distance(Statistics.of(features[shuffled(400, seed=count)[:count]]), real)
        for count in limit.counts
    ]
    assert limit.distances == pytest.approx(alone, rel=1e-11)
    draws = [frechet_distance(Statistics.of(features[resampled(400, seed)]), real) for seed in range(6)]
    expected = float(torch.tensor(draws, dtype=torch.float64).std())
    assert bootstrap_deviation(features, real, 6) == pytest.approx(expected, rel=1e-9)
