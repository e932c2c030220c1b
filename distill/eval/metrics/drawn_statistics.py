"""Means and covariances of many draws of the same features, at the cost of a few.

A draw gives each image a weight: 0 or 1 in a subset, the number of its copies in a draw with replacement.
For several draws together, images with the same weights in all of them form a cell. The outer products of
each cell are summed once and added to every draw: g draws cost one pass over the images instead of g. A draw
of most images is the sum of all of them minus the sum of the others, and only one triangle of the symmetric
sums is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from distill.eval.frechet import Statistics

BLOCK = 512
"""Dimensions of either side of a block of the sums: a block of each draw fits into a processor's cache."""
ROWS_OF_A_SUM = 16
"""Images whose products take as long as adding a block to a draw: measured on one core with AVX-512."""


def statistics_of_draws(
    features: Float64[Tensor, "n d"], draws: Sequence[Int64[Tensor, " n"]]
) -> Iterator[tuple[int, Statistics]]:
    """Yield the number of each draw and the statistics of its images, in any order.

    `draws` are the weights of the images. At most the sums of one group of draws are in memory.
    """
    shift = features.mean(0)
    whole: tuple[Tensor, Tensor] | None = None
    for group in _group(draws):
        totals, products = group.sums(features, shift)
        if whole is None:  # the first group has the draw of all images
            whole = totals[0], products[0]
        for place, number in enumerate(group.numbers):
            if number is None:
                continue
            if group.has_all[place]:
                totals[place] += whole[0]
                products[place] += whole[1]
            count = int(draws[number].sum())
            yield number, Statistics.from_sums(shift, totals[place], products[place], count)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """A draw as the weights that differ from 0, or from 1 if `has_all`; `number` is None for all images."""

    number: int | None
    weights: Int64[Tensor, " n"]
    has_all: bool = False

    @classmethod
    def of(cls, number: int, weights: Int64[Tensor, " n"]) -> _Draw:
        """Choose the base from which fewer images differ."""
        if weights.count_nonzero() <= (weights - 1).count_nonzero():
            return cls(number, weights)
        return cls(number, weights - 1, has_all=True)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Draws whose sums are computed in one pass: the cell of each image, and each cell's weights."""

    draws: list[_Draw]
    cells: Int64[Tensor, " n"]
    weights: Int64[Tensor, "cells draws"]

    @classmethod
    def of(cls, draw: _Draw) -> _Group:
        """Form the cells of one draw."""
        weights, cells = draw.weights.unique(return_inverse=True)
        return cls([draw], cells, weights[:, None])

    def joined(self, draw: _Draw) -> _Group:
        """Add a draw."""
        low = int(draw.weights.min())
        span = int(draw.weights.max()) - low + 1
        codes, cells = (self.cells * span + draw.weights - low).unique(return_inverse=True)
        weights = torch.cat([self.weights[codes // span], (codes % span + low)[:, None]], 1)
        return _Group([*self.draws, draw], cells, weights)

    @property
    def cost(self) -> int:
        """Images whose products are summed, and the sums of cells in as many images."""
        used = self.weights.any(1)
        return int(used[self.cells].count_nonzero()) + ROWS_OF_A_SUM * int(self.weights.count_nonzero())

    @property
    def numbers(self) -> list[int | None]:
        """The numbers of the draws."""
        return [draw.number for draw in self.draws]

    @property
    def has_all(self) -> list[bool]:
        """Whether the sums of all images are to be added to each draw."""
        return [draw.has_all for draw in self.draws]

    def sums(
        self, features: Float64[Tensor, "n d"], shift: Float64[Tensor, " d"]
    ) -> tuple[Float64[Tensor, "draws d"], Float64[Tensor, "draws d d"]]:
        """Sum features - shift and its outer products over the images of each draw, with its weights."""
        order = self.cells.argsort(stable=True)
        sizes = self.cells.bincount(minlength=len(self.weights)).tolist()
        parts = features[order].sub_(shift).split(sizes)
        used = [(part, row) for part, row in zip(parts, self.weights.tolist(), strict=True) if any(row)]
        count, dimension = len(self.draws), features.shape[1]
        totals = features.new_zeros(count, dimension)
        for part, row in used:
            totals += torch.tensor(row, dtype=torch.float64)[:, None] * part.sum(0)
        products = features.new_zeros(count, dimension, dimension)
        blocks = [slice(start, min(start + BLOCK, dimension)) for start in range(0, dimension, BLOCK)]
        for place, rows in enumerate(blocks):
            for columns in blocks[: place + 1]:
                block = _block_sums(used, rows, columns, count)
                products[:, rows, columns] = block
                products[:, columns, rows] = block.mT
        return totals, products


def _block_sums(
    cells: list[tuple[Float64[Tensor, "_ d"], list[int]]], rows: slice, columns: slice, count: int
) -> Float64[Tensor, "draws a b"]:
    """Sum a block of the outer products over cells, into each of `count` draws with its weights."""
    sums = torch.zeros(count, rows.stop - rows.start, columns.stop - columns.start, dtype=torch.float64)
    for part, weights in cells:
        product = part[:, rows].T @ part[:, columns]
        for place, weight in enumerate(weights):
            if weight:
                sums[place].add_(product, alpha=weight)
    return sums


def _group(draws: Sequence[Int64[Tensor, " n"]]) -> list[_Group]:
    """Divide draws into groups: a draw joins the last group if that is cheaper than a group of its own.

    The first group has the draw of all images.
    """
    chosen = [_Draw.of(number, weights) for number, weights in enumerate(draws)]
    chosen.sort(key=lambda draw: int(draw.weights.count_nonzero()), reverse=True)
    groups = [_Group.of(_Draw(None, torch.ones_like(draws[0])))]
    for draw in chosen:
        joined, alone = groups[-1].joined(draw), _Group.of(draw)
        if joined.cost <= groups[-1].cost + alone.cost:
            groups[-1] = joined
        else:
            groups.append(alone)
    return groups
