"""Improved precision and recall, and density and coverage.

Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", and Naeem et
al. 2020, "Reliable fidelity and diversity metrics for generative models".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked
from distill.eval.metrics.distance_bounds import Balls, membership
from distill.eval.metrics.neighbours import check_dimensions, nearest_others

NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5


@dataclasses.dataclass(frozen=True)
class Manifold:
    """A ball around each feature vector, which reaches to its k-th nearest neighbour.

    The balls together estimate where a distribution lies. `rounding` bounds the rounding error of a squared
    distance; `squared_radii` include it.
    """

    features: Float64[Tensor, "n d"]
    squared_radii: Float64[Tensor, " n"]
    rounding: float = 0.0

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], k: int = NEIGHBOURS) -> Manifold:
        """Build the manifold of more than k feature vectors."""
        return cls.of_each(features, [k])[0]

    @classmethod
    def of_each(cls, features: Float[Tensor, "n d"], ks: Sequence[int]) -> list[Manifold]:
        """Build a manifold for each number of neighbours, in one search."""
        features, k = checked(features), max(ks)
        if len(features) <= k:
            raise UserError(
                f"{len(features)} images; "
                f"expected at least {k + 1} for precision and recall with {k} neighbours"
            )
        squared = nearest_others(features, k)
        # The radius is enlarged by the rounding of a distance: a copy of the k-th neighbour, whose distance
        # is exactly the radius, is then inside on every machine.
        largest = max(block.square().sum(1).max() for block in features.split(1024))
        rounding = float(2 * features.shape[1] * torch.finfo(torch.float64).eps * largest)
        return [cls(features, squared[:, k - 1] + rounding, rounding) for k in ks]

    @property
    def closed(self) -> Balls:
        """The balls with their surface, as precision and recall count them (Kynkäänniemi et al., eq. 1)."""
        return Balls(self.squared_radii)

    @property
    def open(self) -> Balls:
        """The balls without their surface, as density and coverage count them (Naeem et al.)."""
        return Balls(self.squared_radii - 2 * self.rounding, is_open=True)

    def contains(self, points: Float64[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        """Return for each point whether it lies in at least one ball."""
        check_dimensions(points, self.features)
        found = torch.zeros(len(points), dtype=torch.bool)
        for rows, _, (inside,) in membership(points, self.features, [self.closed]):
            found[rows] |= inside.any(1)
        return found


def precision_recall(real: Manifold, generated: Manifold) -> dict[str, float]:
    """Compute `precision`, the share of generated images in the real manifold, and `recall`, the reverse."""
    check_dimensions(generated.features, real.features)
    counts = _Counts(len(real.features), len(generated.features))
    around_generated = dataclasses.replace(generated.closed, around_points=True)
    for rows, columns, answers in membership(
        generated.features, real.features, [real.closed, around_generated]
    ):
        counts.add_closed(rows, columns, *answers)
    return counts.precision_recall()


def density_coverage(
    real: Manifold, generated: Float64[Tensor, "m d"], k: int = COVERAGE_NEIGHBOURS
) -> dict[str, float]:
    """Compute density and coverage with a real manifold of k neighbours.

    `density` is the mean number of real balls that a generated image lies in, divided by k; for real images 1
    is expected. `coverage` is the share of real balls that contain a generated image. A ball is open here: a
    copy of the k-th neighbour lies outside, while precision and recall count it as inside.
    """
    check_dimensions(generated, real.features)
    counts = _Counts(len(real.features), len(generated))
    for _, columns, (inside,) in membership(generated, real.features, [real.open]):
        counts.add_open(columns, inside)
    return counts.density_coverage(k)


def neighbourhoods(
    real: Float[Tensor, "n _"],
    generated: Float[Tensor, "m _"],
    k: int = NEIGHBOURS,
    coverage_k: int = COVERAGE_NEIGHBOURS,
) -> dict[str, float]:
    """Compute precision, recall, density and coverage together: each distance is bounded once."""
    generated = checked(generated)
    check_dimensions(generated, real)
    near, wide = Manifold.of_each(real, [k, coverage_k])
    made = Manifold.of(generated, k)
    counts = _Counts(len(near.features), len(generated))
    questions = [near.closed, dataclasses.replace(made.closed, around_points=True), wide.open]
    for rows, columns, (in_real, in_made, in_open) in membership(generated, near.features, questions):
        counts.add_closed(rows, columns, in_real, in_made)
        counts.add_open(columns, in_open)
    return {**counts.precision_recall(), **counts.density_coverage(coverage_k)}


class _Counts:
    """Images that lie in a ball, from tiles of answers: generated images in rows, real ones in columns."""

    def __init__(self, real: int, generated: int) -> None:
        self.precise = torch.zeros(generated, dtype=torch.bool)
        self.recalled = torch.zeros(real, dtype=torch.bool)
        self.covered = torch.zeros(real, dtype=torch.bool)
        self.inside = 0

    def add_closed(
        self, rows: slice, columns: slice, in_real: Bool[Tensor, "a b"], in_generated: Bool[Tensor, "a b"]
    ) -> None:
        """Add answers about closed balls around real and around generated images."""
        self.precise[rows] |= in_real.any(1)
        self.recalled[columns] |= in_generated.any(0)

    def add_open(self, columns: slice, inside: Bool[Tensor, "a b"]) -> None:
        """Add answers about open balls around real images."""
        self.inside += int(inside.count_nonzero())
        self.covered[columns] |= inside.any(0)

    def precision_recall(self) -> dict[str, float]:
        """Return the shares of images in a closed ball."""
        return {
            "precision": float(self.precise.double().mean()),
            "recall": float(self.recalled.double().mean()),
        }

    def density_coverage(self, k: int) -> dict[str, float]:
        """Return the shares that open balls of k neighbours give."""
        return {
            "density": self.inside / (k * len(self.precise)),
            "coverage": float(self.covered.double().mean()),
        }
