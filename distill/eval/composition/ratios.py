"""Ratios of sums over prompts, with standard errors: prompts are independent draws, their images are not.

A share of correct images, a mean of scores and a share of correct words are all sum(a) / sum(b), where prompt
i adds a_i and b_i. The standard error is that of the linearised ratio (Cochran 1977, section 6.4), which is
the usual one of a mean where all b_i are equal. A mean over tasks has one ratio for each task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from distill.eval.preference.statistics import QUANTILE, wilson

SINGLE = ("",)
"""Strata of a measure that is one ratio."""


class Estimate(NamedTuple):
    """A ratio, its standard error, which is None for a single prompt, and the number of prompts."""

    value: float
    standard_error: float | None
    prompts: int


def estimate(
    numerators: Sequence[float], denominators: Sequence[float], strata: Sequence[str] | None = None
) -> Estimate:
    """Estimate a ratio, or the mean of the ratios of the strata, from each prompt's sums.

    Prompts whose denominator is 0 are left out. `strata` names the stratum of each prompt.
    """
    values = []
    errors = []
    count = 0
    for rows in _rows(denominators, strata):
        value, influences = _linearised(_part(numerators, rows), _part(denominators, rows))
        values.append(value)
        errors.append(_standard_error(influences))
        count += len(rows)
    return Estimate(sum(values) / len(values), _combined(errors), count)


def difference(
    numerators: Sequence[float],
    others: Sequence[float],
    denominators: Sequence[float],
    strata: Sequence[str] | None = None,
) -> Estimate:
    """Estimate the difference of two results on the same prompts, whose denominators are equal."""
    values = []
    errors = []
    count = 0
    for rows in _rows(denominators, strata):
        totals = _part(denominators, rows)
        value, influences = _linearised(_part(numerators, rows), totals)
        other, other_influences = _linearised(_part(others, rows), totals)
        values.append(value - other)
        errors.append(_standard_error(influences - other_influences))
        count += len(rows)
    return Estimate(sum(values) / len(values), _combined(errors), count)


def interval(estimated: Estimate, is_rate: bool) -> list[float] | None:
    """Return the 95 % interval: Wilson's for a rate, with as many trials as prompts, else the normal one.

    Wilson's is wider than necessary if a prompt has several images that do not all agree.
    """
    if is_rate:
        return list(wilson(estimated.value, estimated.prompts))
    if estimated.standard_error is None:
        return None
    reach = QUANTILE * estimated.standard_error
    return [estimated.value - reach, estimated.value + reach]


def _rows(denominators: Sequence[float], strata: Sequence[str] | None) -> list[list[int]]:
    """Return the positions of the prompts of each stratum."""
    found: dict[str, list[int]] = {}
    for row, total in enumerate(denominators):
        if total > 0:
            found.setdefault(SINGLE[0] if strata is None else strata[row], []).append(row)
    return list(found.values())


def _part(values: Sequence[float], rows: Sequence[int]) -> Float64[Tensor, " n"]:
    return torch.tensor([values[row] for row in rows], dtype=torch.float64)


def _linearised(
    numerators: Float64[Tensor, " n"], denominators: Float64[Tensor, " n"]
) -> tuple[float, Float64[Tensor, " n"]]:
    """Return the ratio and each prompt's influence on it; the influences sum to 0."""
    value = (numerators.sum() / denominators.sum()).item()
    return value, (numerators - value * denominators) / denominators.mean()


def _standard_error(influences: Float64[Tensor, " n"]) -> float | None:
    if len(influences) < 2:
        return None
    return (influences.std() / len(influences) ** 0.5).item()


def _combined(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of the mean of independent values; None if one is not known."""
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return sum(error**2 for error in known) ** 0.5 / len(known)
