"""Diversity of the images of one prompt or of one label: cosine distances, Vendi scores, recall.

Each number belongs to one condition. Their mean over conditions has a standard error, because conditions are
independent draws; the images of one condition are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked
from distill.eval.metrics.precision_recall import NEIGHBOURS, Manifold


@dataclasses.dataclass(frozen=True)
class ByCondition:
    """A number for each condition that has one; `conditions` are their numbers, in ascending order."""

    conditions: Int64[Tensor, " c"]
    values: Float64[Tensor, " c"]

    @property
    def mean(self) -> float:
        """The mean over conditions."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean, None for a single condition."""
        if len(self.values) < 2:
            return None
        return float(self.values.std()) / len(self.values) ** 0.5


def within_each(
    features: Float[Tensor, "n d"],
    conditions: Int64[Tensor, " n"],
    statistic: Callable[[Float64[Tensor, "k d"]], float],
) -> ByCondition:
    """Compute a statistic of the images of each condition that has at least two."""
    features = checked(features)
    numbers, counts = conditions.unique(return_counts=True)
    numbers = numbers[counts > 1]
    if not len(numbers):
        raise UserError("no prompt or label has two images; expected several of each")
    values = [statistic(features[conditions == number]) for number in numbers.tolist()]
    return ByCondition(numbers, torch.tensor(values, dtype=torch.float64))


def cosine_distance(features: Float64[Tensor, "k d"]) -> float:
    """Compute the mean of 1 - cos over all pairs: 0 for equal directions, 1 for right angles.

    There are at least two images. Their pairs are not listed: the cosines of all add up to
    (|sum of unit vectors|^2 - k) / 2.
    """
    unit, count = directions(features), len(features)
    cosines = (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1))
    return max(0.0, float(1 - cosines))  # rounding must not make equal images differ by less than nothing


def vendi_score(features: Float64[Tensor, "k d"]) -> float:
    """Compute the effective number of different images, from 1 for equal ones to k for orthogonal ones.

    It is the exponential of the entropy of the eigenvalues of K/k, where K holds the cosines of all pairs
    (Friedman and Dieng 2023, "The Vendi score: a diversity evaluation metric for machine learning", eq. 3).
    X X^T and X^T X have the same eigenvalues but for zeros, so the smaller of the two is decomposed.
    """
    unit = directions(features)
    gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
    shares = torch.linalg.eigvalsh(gram / len(unit))
    shares = shares[shares > 0]
    entropy = -(shares * shares.log()).sum()
    return float(entropy.exp())


def directions(features: Float64[Tensor, "k d"]) -> Float64[Tensor, "k d"]:
    """Divide features by their lengths; a feature vector of zeros has no direction."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if not lengths.all():
        row = int((lengths[:, 0] == 0).int().argmax())
        raise UserError(f"features: row {row} is zero; expected a direction, for cosines")
    return features / lengths


def recall_of_each(
    generated: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    real: Float[Tensor, "m d"],
    real_labels: Int64[Tensor, " m"],
    k: int = NEIGHBOURS,
) -> ByCondition:
    """Compute the recall of each label: the share of its real images in the manifold of its generated ones.

    A generator that repeats one image of each label may have a high recall over all labels together, because
    the balls of an image reach to images of other labels.
    """
    numbers = labels.unique()
    values = []
    for label in numbers.tolist():
        rows, real_rows = labels == label, real_labels == label
        _check_counts(label, rows, real_rows, k)
        inside = Manifold.of(generated[rows], k).contains(checked(real[real_rows]))
        values.append(float(inside.double().mean()))
    return ByCondition(numbers, torch.tensor(values, dtype=torch.float64))


def _check_counts(label: int, rows: Bool[Tensor, " n"], real_rows: Bool[Tensor, " m"], k: int) -> None:
    generated, real = int(rows.sum()), int(real_rows.sum())
    if generated <= k or not real:
        found = f"{generated} generated and {real} real images"
        raise UserError(f"label {label}: {found}; expected at least {k + 1} and 1, for recall")
