"""Distances between two sets of features, computed block by block so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from distill.config.errors import UserError

BLOCK = 2**21
"""Maximum number of distances in memory at once: 16 MiB of them."""


def squared_distances(
    points: Float64[Tensor, "n _"], centres: Float64[Tensor, "m _"]
) -> Iterator[Float64[Tensor, "_ m"]]:
    """Yield the squared Euclidean distances of all pairs, some rows at a time.

    They are computed as a matrix product, exact up to rounding.
    """
    if points.shape[1] != centres.shape[1]:
        raise UserError(
            f"features of {points.shape[1]} and of {centres.shape[1]} dimensions; "
            "expected the same features on both sides"
        )
    norms = centres.square().sum(1)
    for block in points.split(max(1, BLOCK // len(centres))):
        offset = block.square().sum(1, keepdim=True) + norms
        yield torch.addmm(offset, block, centres.T, alpha=-2).clamp_(min=0)


def nearest(
    points: Float64[Tensor, "n _"], centres: Float64[Tensor, "m _"]
) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Return the index of the nearest centre of each point, and its squared distance.

    The distance is exactly 0 if the two are equal.
    """
    index = torch.cat([block.argmin(1) for block in squared_distances(points, centres)])
    return index, (points - centres[index]).square().sum(1)
