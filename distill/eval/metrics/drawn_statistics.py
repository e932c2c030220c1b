"""Means and covariances of many draws of the same features, at the cost of a few.

A draw gives each image a weight: 0 or 1 in a subset, the number of its copies in a draw with replacement.
For several draws together, images with the same weights in all of them form a cell. The outer products of
each cell are summed once, so that g draws cost one pass over the images instead of g. Cells that differ only
in later draws are added up before they are added to an earlier one. A draw of most images is the sum of all
of them minus the sum of the others, and only one triangle of the symmetric sums is computed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from distill.eval.frechet import Statistics

BLOCK = 384
"""Dimensions of either side of a block of the sums: blocks of several draws fit into a processor's cache.

Powers of two are slower: their rows compete for the same lines of the cache.
"""
ROWS_OF_AN_ADDITION = 32
"""Images whose products take as long as adding one block to another: measured on one core with AVX2."""


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


_Cell = tuple[slice, list[int]]
"""Images of a cell, and their weight in each draw of a group."""


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
    additions: int
    """Additions of one sum to another."""

    @classmethod
    def of(cls, draw: _Draw) -> _Group:
        """Form the cells of one draw."""
        weights, cells = draw.weights.unique(return_inverse=True)
        return cls([draw], cells, weights[:, None], 2 * int(weights.count_nonzero()))

    def joined(self, draw: _Draw) -> _Group:
        """Add a draw: each cell is divided by its weights."""
        low = int(draw.weights.min())
        span = int(draw.weights.max()) - low + 1
        codes, cells = (self.cells * span + draw.weights - low).unique(return_inverse=True)
        last = codes % span + low
        weights = torch.cat([self.weights[codes // span], last[:, None]], 1)
        additions = self.additions + 2 * int(last.count_nonzero())
        return _Group([*self.draws, draw], cells, weights, additions)

    @property
    def cost(self) -> int:
        """Images whose products are summed, and the additions of sums in as many images."""
        used = self.weights.any(1)
        return int(used[self.cells].count_nonzero()) + ROWS_OF_AN_ADDITION * self.additions

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
        is_used = self.weights.any(1)
        order = self.cells.argsort(stable=True)
        order = order[is_used[self.cells[order]]]
        stops = self.cells.bincount(minlength=len(self.weights))[is_used].cumsum(0).tolist()
        images = [slice(*pair) for pair in itertools.pairwise([0, *stops])]
        weights = self.weights[is_used]
        cells = list(zip(images, weights.tolist(), strict=True))
        blocks = [slice(start, start + BLOCK) for start in range(0, len(shift), BLOCK)]
        columns = [features[:, block][order].sub_(shift[block]) for block in blocks]
        totals = [
            weights.T.double() @ torch.stack([column[of].sum(0) for of in images]) for column in columns
        ]
        products = features.new_zeros(len(self.draws), len(shift), len(shift))
        for place, rows in enumerate(blocks):
            for left, block in enumerate(blocks[: place + 1]):
                sums = _Block.between(columns[place], columns[left], len(self.draws)).summed(cells)
                products[:, rows, block] = sums
                products[:, block, rows] = sums.mT
        return torch.cat(totals, 1), products


@dataclasses.dataclass(frozen=True)
class _Block:
    """A block of the outer products, summed over cells into each draw with its weights.

    `parts` is working memory: a sum over the cells that agree up to a draw, for each draw.
    """

    left: Float64[Tensor, "n a"]
    right: Float64[Tensor, "n b"]
    sums: Float64[Tensor, "draws a b"]
    parts: Float64[Tensor, "draws+1 a b"]

    @classmethod
    def between(cls, left: Float64[Tensor, "n a"], right: Float64[Tensor, "n b"], draws: int) -> _Block:
        """Begin the block between some dimensions and others with sums of zero."""
        shape = left.shape[1], right.shape[1]
        return cls(left, right, left.new_zeros(draws, *shape), left.new_zeros(draws + 1, *shape))

    def summed(self, cells: Iterable[_Cell]) -> Float64[Tensor, "draws a b"]:
        """Return the sums over cells, which come in the order of their weights."""
        self._add(cells, 0, self.parts[-1])
        return self.sums

    def _add(self, cells: Iterable[_Cell], draw: int, whole: Float64[Tensor, "a b"]) -> None:
        """Add cells that agree in earlier draws to this draw, to later ones and to `whole`."""
        if draw == len(self.sums):
            for images, _ in cells:
                whole.addmm_(self.left[images].T, self.right[images])
            return
        for weight, same in itertools.groupby(cells, lambda cell: cell[1][draw]):
            if not weight:
                self._add(same, draw + 1, whole)
                continue
            part = self.parts[draw].zero_()
            self._add(same, draw + 1, part)
            self.sums[draw].add_(part, alpha=weight)
            whole.add_(part)


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
