"""Nearest neighbours among features, and their distances, computed block by block: memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.metrics.distance_bounds import (
    Frame,
    RoundedFeatures,
    round_up,
    squared_differences,
    tiles,
)

BLOCK = 2**21
"""Maximum number of distances in memory at once: 16 MiB of them."""
MAX_PAIRS = 2**22
"""Number of pairs that may be nearest neighbours in memory at once: 80 MiB of them."""


def squared_distances(
    points: Float64[Tensor, "n _"], centres: Float64[Tensor, "m _"]
) -> Iterator[Float64[Tensor, "_ m"]]:
    """Yield the squared Euclidean distances of all pairs, some rows at a time.

    They are computed as a matrix product, exact up to rounding.
    """
    check_dimensions(points, centres)
    norms = centres.square().sum(1)
    for block in points.split(max(1, BLOCK // len(centres))):
        offset = block.square().sum(1, keepdim=True) + norms
        yield torch.addmm(offset, block, centres.T, alpha=-2).clamp_(min=0)


def check_dimensions(points: Tensor, centres: Tensor) -> None:
    """Refuse features of different dimensions."""
    if points.shape[1] != centres.shape[1]:
        raise UserError(
            f"features of {points.shape[1]} and of {centres.shape[1]} dimensions; "
            "expected the same features on both sides"
        )


def nearest(
    points: Float64[Tensor, "n _"], centres: Float64[Tensor, "m _"]
) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Return the index of the nearest centre of each point, and its squared distance.

    The distance is exactly 0 if the two are equal.
    """
    index = torch.cat([block.argmin(1) for block in squared_distances(points, centres)])
    return index, (points - centres[index]).square().sum(1)


def nearest_others(features: Float64[Tensor, "n d"], k: int) -> Float64[Tensor, "n k"]:
    """Return the squared distances of each vector to its k nearest others, in ascending order.

    Each pair is bounded once, by a float32 product; pairs that may be among the k nearest are computed from
    float64 differences. There are more than k vectors.
    """
    frame = Frame.of(features)
    side = RoundedFeatures.of(features, frame)
    search = _Search(features, frame, k)
    for rows in tiles(len(features)):
        for columns in tiles(len(features)):
            if columns.start < rows.start:
                continue
            lower, upper = side.bounds(rows, side, columns)
            if columns == rows:
                lower.fill_diagonal_(math.nan)  # no comparison with NaN holds: a vector is no other
                upper.fill_diagonal_(math.inf)
            search.add(rows, columns, lower, upper)
            if columns != rows:
                search.add(columns, rows, lower.T, upper.T)
    return search.settle()


class _Search:
    """The k nearest of each vector so far.

    `limit` is an upper bound of the squared distance of the k-th of them, `best` holds the k smallest upper
    bounds, and `pairs` what may be nearest: vector, other, lower bound. `nearest` are exact distances of
    pairs that have been settled. All but these are scaled.
    """

    def __init__(self, features: Float64[Tensor, "n d"], frame: Frame, k: int) -> None:
        self.features, self.frame, self.k = features, frame, k
        self.best = torch.full((len(features), k), math.inf)
        self.limit = torch.full((len(features),), math.inf)
        self.nearest = torch.full((len(features), k), math.inf, dtype=torch.float64)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.held = 0

    def add(
        self, rows: slice, columns: slice, lower: Float32[Tensor, "a b"], upper: Float32[Tensor, "a b"]
    ) -> None:
        """Consider the vectors of these columns as neighbours of those of these rows."""
        changed = (lower <= self.limit[rows, None]).any(1).nonzero()[:, 0]
        if not len(changed):
            return
        vectors, lower = changed + rows.start, lower[changed]
        found = upper[changed].topk(min(self.k, upper.shape[1]), largest=False).values
        best = torch.cat([self.best[vectors], found], 1).topk(self.k, largest=False).values
        self.best[vectors] = best
        self.limit[vectors] = torch.minimum(self.limit[vectors], best[:, -1])
        i, j = (lower <= self.limit[vectors, None]).nonzero(as_tuple=True)
        self.pairs.append((vectors[i], j + columns.start, lower[i, j]))
        self.held += len(i)
        if self.held > MAX_PAIRS:
            self.settle()

    def settle(self) -> Float64[Tensor, "n k"]:
        """Compute the distances of all pairs that may still be nearest; return each vector's k smallest."""
        if not self.pairs:
            return self.nearest
        vectors, others, lower = (torch.cat(part) for part in zip(*self.pairs, strict=True))
        self.pairs, self.held = [], 0
        kept = lower <= self.limit[vectors]
        vectors, others = vectors[kept], others[kept]
        distances = squared_differences(self.features, vectors, self.features, others)
        found = _smallest_of_each(vectors, distances, *self.nearest.shape)
        self.nearest = torch.cat([self.nearest, found], 1).topk(self.k, largest=False).values
        furthest = self.nearest[:, -1]
        self.limit = torch.minimum(self.limit, round_up(self.frame.squared(furthest)))
        self.limit[furthest == 0] = -math.inf  # nothing is nearer than a copy
        return self.nearest


def _smallest_of_each(
    groups: Int64[Tensor, " p"], values: Float64[Tensor, " p"], count: int, k: int
) -> Float64[Tensor, "count k"]:
    """Return the k smallest values of each of `count` groups, in ascending order, filled up with infinity."""
    order = values.argsort()
    order = order[groups[order].argsort(stable=True)]
    groups, values = groups[order], values[order]
    sizes = groups.bincount(minlength=count)
    place = torch.arange(len(groups)) - (sizes.cumsum(0) - sizes)[groups]
    smallest = torch.full((count, k), math.inf, dtype=torch.float64)
    kept = place < k
    smallest[groups[kept], place[kept]] = values[kept]
    return smallest
