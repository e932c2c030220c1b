"""Bounds of squared distances from float32 products, and the decisions that they allow.

A float32 product takes half the time of a float64 one. Its rounding error is bounded, so most questions of
the kind "is this distance at most that radius" are answered by it with certainty; the few distances that lie
within the bound of their radius are computed again from float64 differences. The answers are those of
float64.

With x' = x after centring, scaling and rounding, and n = |x'|, the estimate n_i^2 + n_j^2 - 2 x'_i.x'_j
differs from the squared distance by at most c (n_i^2 + n_j^2). For any order of summation the product of d
dimensions is wrong by at most gamma_d n_i n_j with gamma_m = m u / (1 - m u) and u = 2^-24 (Higham 2002,
"Accuracy and stability of numerical algorithms", section 3.1); rounding x costs 4 u, the sums of the estimate
6 u. The bound is a sum of a term of i and a term of j, because 2 n_i n_j <= n_i^2 + n_j^2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from distill.config.errors import UserError

TILE = 1024
"""Features of either side in a tile of distances: a tile and its bounds fit into a processor's cache."""
PAIRS_AT_ONCE = 2**17
"""Maximum number of elements of differences at once: 1 MiB of them, which fits into a processor's cache."""
UNIT = 2.0**-24
"""Unit roundoff u of float32."""
SPARE = 32
"""Roundings of a distance's estimate besides those of its product; at most 10 are needed."""
SMALLEST = 2.0**-126
"""Maximum error of an operation whose result is too small for float32's normal numbers."""
MAX_EXPONENT = 1023
"""Exponent of the largest power of two in float64."""
MAX_DIMENSION = 2**22
"""Maximum dimension of the features: with more, gamma is too large for the sums of the bounds."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """Shift and scale under which the features of both sides are rounded.

    Distances do not change with the shift. They are multiplied by `scale`, a power of two.
    """

    shift: Float64[Tensor, " d"]
    scale: float

    @classmethod
    def of(cls, *sides: Float64[Tensor, "_ d"]) -> Frame:
        """Choose the mean of the first side, and a scale with which no component exceeds 1."""
        shift = sides[0].mean(0)
        largest = max(
            float((block - shift).abs().max()) for side in sides for block in side.split(TILE) if len(block)
        )
        return cls(shift, 2.0 ** min(-math.frexp(largest)[1], MAX_EXPONENT) if largest else 1.0)

    def squared(self, distances: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Scale squared distances."""
        return distances * self.scale * self.scale


@dataclasses.dataclass(frozen=True)
class RoundedFeatures:
    """Features in float32, and the terms of the bounds of their distances.

    The scaled squared distance of i and j lies between the sums of -2 x'_i.x'_j with `lower[i]` and
    `lower[j]` and with `upper[i]` and `upper[j]`, computed in float32.
    """

    features: Float64[Tensor, "n d"]
    rounded: Float32[Tensor, "n d"]
    lower: Float32[Tensor, " n"]
    upper: Float32[Tensor, " n"]

    @classmethod
    def of(cls, features: Float64[Tensor, "n d"], frame: Frame) -> RoundedFeatures:
        """Round features, and compute their terms."""
        count, dimension = features.shape
        if dimension > MAX_DIMENSION:
            raise UserError(
                f"features of {dimension} dimensions; expected at most {MAX_DIMENSION} for neighbours"
            )
        rounded = torch.empty(count, dimension, dtype=torch.float32)
        norms = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, TILE):
            rows = slice(start, start + TILE)
            rounded[rows] = (features[rows] - frame.shift) * frame.scale
            norms[rows] = rounded[rows].double().square().sum(1)
        m = (dimension + SPARE) * UNIT
        gamma = m / (1 - m)
        underflow = 8 * dimension * SMALLEST
        lower = round_down(norms * (1 - gamma) - underflow)
        upper = round_up(norms * (1 + gamma) + underflow)
        return cls(features, rounded, lower, upper)

    def bounds(
        self, rows: slice, others: RoundedFeatures, columns: slice
    ) -> tuple[Float32[Tensor, "a b"], Float32[Tensor, "a b"]]:
        """Return lower and upper bounds of the scaled squared distances of these rows and columns.

        NumPy computes the product, because torch may be told to use bfloat16 or TF32 for float32.
        """
        left, right = self.rounded[rows].numpy(), others.rounded[columns].numpy()
        product = torch.from_numpy(np.matmul(left, right.T)).mul_(-2)
        upper = (product + self.upper[rows, None]).add_(others.upper[columns])
        lower = product.add_(self.lower[rows, None]).add_(others.lower[columns])
        return lower, upper


def round_down(values: Float64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Round to a float32 number that is smaller."""
    return torch.nextafter(values.float(), torch.tensor(-math.inf))


def round_up(values: Float64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Round to a float32 number that is greater."""
    return torch.nextafter(values.float(), torch.tensor(math.inf))


def squared_differences(
    points: Float64[Tensor, "n d"],
    rows: Int64[Tensor, " p"],
    centres: Float64[Tensor, "m d"],
    columns: Int64[Tensor, " p"],
) -> Float64[Tensor, " p"]:
    """Compute squared distances of pairs from differences: 0 for equal vectors, and the same both ways."""
    size = max(1, PAIRS_AT_ONCE // points.shape[1])
    pairs = zip(rows.split(size), columns.split(size), strict=True)
    parts = [(points[i] - centres[j]).square_().sum(1) for i, j in pairs]
    return torch.cat(parts) if parts else points.new_zeros(0)


@dataclasses.dataclass(frozen=True)
class Balls:
    """Balls around all centres, or around all points, with these squared radii.

    An open ball does not contain its surface.
    """

    squared_radii: Float64[Tensor, " n"]
    around_points: bool = False
    is_open: bool = False


Answers = tuple[slice, slice, list[Bool[Tensor, "a b"]]]
"""Rows and columns of a tile of pairs, and for each question the answer of each pair."""


def membership(
    points: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"], questions: Sequence[Balls]
) -> Iterator[Answers]:
    """Yield for pairs of a point and a centre whether their distance is within the ball's radius.

    The pairs come in tiles; each distance is bounded once for all questions.
    """
    frame = Frame.of(centres, points)
    left, right = RoundedFeatures.of(points, frame), RoundedFeatures.of(centres, frame)
    scaled = [frame.squared(balls.squared_radii) for balls in questions]
    for rows in tiles(len(points)):
        for columns in tiles(len(centres)):
            lower, upper = left.bounds(rows, right, columns)
            tile = _Tile(points[rows], centres[columns], frame, lower, upper)
            answers = []
            for balls, radii in zip(questions, scaled, strict=True):
                limits = radii[rows, None] if balls.around_points else radii[None, columns]
                answers.append(tile.within(limits, balls.is_open))
            yield rows, columns, answers


@dataclasses.dataclass(frozen=True)
class _Tile:
    """Some points and centres, with bounds of their scaled squared distances."""

    points: Float64[Tensor, "a d"]
    centres: Float64[Tensor, "b d"]
    frame: Frame
    lower: Float32[Tensor, "a b"]
    upper: Float32[Tensor, "a b"]

    def within(self, limits: Float64[Tensor, "_ _"], is_open: bool) -> Bool[Tensor, "a b"]:
        """Return whether distances are within limits, by the bounds where they are certain."""
        inside = self.upper < round_down(limits)
        unsure = (self.lower <= round_up(limits)).logical_xor_(inside)
        if unsure.any():
            i, j = unsure.nonzero(as_tuple=True)
            distances = self.frame.squared(squared_differences(self.points, i, self.centres, j))
            limit = limits.expand(unsure.shape)[i, j]
            inside[i, j] = distances < limit if is_open else distances <= limit
        return inside


def tiles(count: int) -> list[slice]:
    """Divide 0..count-1 into slices of at most `TILE`."""
    return [slice(start, min(start + TILE, count)) for start in range(0, count, TILE)]
