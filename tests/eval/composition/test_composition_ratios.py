"""Ratios over prompts: means in closed form, the spread of a simulation, and differences of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from distill.eval.composition.ratios import difference, estimate, interval
from distill.eval.preference.statistics import wilson


def test_a_mean_over_prompts_has_the_standard_error_of_a_mean() -> None:
    found = estimate([1.0, 0.5, 0.0, 0.25], [1.0] * 4)
    assert found.value == pytest.approx(0.4375)
    assert found.standard_error == pytest.approx(np.std([1, 0.5, 0, 0.25], ddof=1) / 2)
    assert found.prompts == 4


def test_prompts_with_a_denominator_of_zero_are_left_out() -> None:
    assert estimate([1.0, 9.0, 3.0], [2.0, 0.0, 4.0]) == estimate([1.0, 3.0], [2.0, 4.0])


def test_the_error_of_a_ratio_is_the_spread_over_draws_of_prompts() -> None:
    draw = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(2000):
        words = draw.integers(1, 8, size=60)
        right = draw.binomial(words, draw.beta(2, 1, size=60))
        found = estimate(right.astype(float).tolist(), words.astype(float).tolist())
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.03)


def test_strata_count_equally() -> None:
    found = estimate([4.0, 0.0, 1.0, 2.0], [4.0] * 4, ["a", "a", "b", "b"])
    assert found.value == pytest.approx((0.5 + 0.375) / 2)
    error_a, error_b = np.std([1, 0], ddof=1) / 2**0.5, np.std([0.25, 0.5], ddof=1) / 2**0.5
    assert found.standard_error == pytest.approx((error_a**2 + error_b**2) ** 0.5 / 2)
    assert estimate([1.0, 1.0], [1.0, 1.0], ["a", "b"]).standard_error is None


def test_the_difference_of_pairs_loses_what_they_share() -> None:
    first, second = [1.0, 0.0, 1.0, 0.0], [0.9, 0.1, 0.9, 0.1]
    found = difference(first, second, [1.0] * 4)
    assert found.value == pytest.approx(0.0)
    assert found.standard_error == pytest.approx(np.std([0.1, -0.1, 0.1, -0.1], ddof=1) / 2)
    assert difference(first, first, [1.0] * 4).standard_error == 0


def test_intervals() -> None:
    found = estimate([3.0, 4.0], [4.0, 4.0])
    assert interval(found, is_rate=True) == list(wilson(7 / 8, 2))
    assert interval(found, is_rate=False) == pytest.approx(
        [0.875 - 1.959964 * found.standard_error, 0.875 + 1.959964 * found.standard_error]  # type: ignore[operator]
    )
    assert interval(estimate([1.0], [1.0]), is_rate=False) is None
