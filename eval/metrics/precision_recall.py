"""Improved precision and recall (Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models"), and density
and coverage (Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models")."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from distill.config.errors import UserError
from eval.features import checked
from eval.metrics.neighbours import squared_distances

NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5


@dataclasses.dataclass(frozen=True)
class Manifold:
    """An estimate of where a distribution lies: a ball around each feature vector, up to its k-th nearest other one.

    `features` is (n, d), `squared_radii` (n,), float64; `rounding` is what a matrix product may make of either.
    """

    features: Float64[Tensor, "n d"]
    squared_radii: Float64[Tensor, " n"]
    rounding: float = 0.0

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], k: int = NEIGHBOURS) -> Manifold:
        """The manifold of some features. Raises UserError where there are not more than k, or one is not finite."""
        features = checked(features)
        if len(features) <= k:
            raise UserError(
                f"{len(features)} images; expected at least {k + 1} for precision and recall with {k} neighbours"
            )
        # The k + 1 nearest, because the first is the vector itself.
        radii = torch.cat(
            [block.topk(k + 1, largest=False).values[:, k] for block in squared_distances(features, features)]
        )
        # What a matrix product may be wrong by: a copy of the k-th neighbour, which is at exactly the radius, is inside on every machine.
        rounding = 2 * features.shape[1] * torch.finfo(torch.float64).eps * features.square().sum(1).max()
        return cls(features, radii + rounding, float(rounding))

    def contains(self, points: Float64[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        """Whether each point lies in a ball."""
        return torch.cat(
            [(block <= self.squared_radii).any(1) for block in squared_distances(points, self.features)]
        )


def precision_recall(real: Manifold, generated: Manifold) -> dict[str, float]:
    """`precision`: share of generated images within the real manifold; `recall`: share of real images within the generated one."""
    return {
        "precision": float(real.contains(generated.features).double().mean()),
        "recall": float(generated.contains(real.features).double().mean()),
    }


def density_coverage(
    real: Manifold, generated: Float64[Tensor, "m d"], k: int = COVERAGE_NEIGHBOURS
) -> dict[str, float]:
    """`density`: how many balls of the real manifold, made with k neighbours, a generated image lies in, over k; 1 is to be expected of real images.
    `coverage`: share of the balls in which a generated image lies.

    A ball is open here, as Naeem et al. have it: a copy of the k-th neighbour lies outside, while precision and recall count it as inside
    (Kynkäänniemi et al., eq. 1).
    """
    open_radii = real.squared_radii - 2 * real.rounding
    inside = 0
    covered = torch.zeros(len(real.features), dtype=torch.bool)
    for block in squared_distances(generated, real.features):
        within = block < open_radii
        inside += int(within.sum())
        covered |= within.any(0)
    return {"density": inside / (k * len(generated)), "coverage": float(covered.double().mean())}
