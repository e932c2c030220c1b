"""Improved precision and recall, and density and coverage.

Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", and Naeem et
al. 2020, "Reliable fidelity and diversity metrics for generative models".
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked
from distill.eval.metrics.neighbours import squared_distances

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
        features = checked(features)
        if len(features) <= k:
            raise UserError(
                f"{len(features)} images; "
                f"expected at least {k + 1} for precision and recall with {k} neighbours"
            )
        # The k + 1 nearest, because the first is the vector itself.
        radii = torch.cat(
            [block.topk(k + 1, largest=False).values[:, k] for block in squared_distances(features, features)]
        )
        # The radius is enlarged by the rounding of the matrix product: a copy of the k-th neighbour, whose
        # distance is exactly the radius, is then inside on every machine.
        rounding = 2 * features.shape[1] * torch.finfo(torch.float64).eps * features.square().sum(1).max()
        return cls(features, radii + rounding, float(rounding))

    def contains(self, points: Float64[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        """Return for each point whether it lies in at least one ball."""
        return torch.cat(
            [(block <= self.squared_radii).any(1) for block in squared_distances(points, self.features)]
        )


def precision_recall(real: Manifold, generated: Manifold) -> dict[str, float]:
    """Compute `precision`, the share of generated images in the real manifold, and `recall`, the reverse."""
    return {
        "precision": float(real.contains(generated.features).double().mean()),
        "recall": float(generated.contains(real.features).double().mean()),
    }


def density_coverage(
    real: Manifold, generated: Float64[Tensor, "m d"], k: int = COVERAGE_NEIGHBOURS
) -> dict[str, float]:
    """Compute density and coverage with a real manifold of k neighbours.

    `density` is the mean number of real balls that a generated image lies in, divided by k; for real images 1
    is expected. `coverage` is the share of real balls that contain a generated image. A ball is open here, as
    in Naeem et al.: a copy of the k-th neighbour lies outside, while precision and recall count it as inside
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
