"""Pairs of Gaussians whose Fréchet distance is known or is computed by other packages too."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.eval.frechet import Statistics


def draw(count: int, dimension: int, seed: int, offset: float = 0.0) -> Tensor:
    """Draw correlated Gaussian features around an offset."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=random, dtype=torch.float64)
    return torch.randn(count, dimension, generator=random, dtype=torch.float64) @ mixing + offset


def rotation(dimension: int, seed: int = 0) -> Tensor:
    """Return a random orthogonal matrix."""
    random = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dimension, dimension, generator=random, dtype=torch.float64))[0]


def gaussian(eigenvalues: Tensor, basis: Tensor, mean: Tensor | None = None) -> Statistics:
    """Return the statistics of a Gaussian by the eigenvalues and eigenvectors of its covariance."""
    cov = basis @ torch.diag(eigenvalues) @ basis.T
    return Statistics(
        torch.zeros(len(cov), dtype=torch.float64) if mean is None else mean, (cov + cov.T) / 2, 10_000
    )


def commuting_distance(a: Tensor, b: Tensor) -> float:
    """Compute the distance of centred Gaussians with equal eigenvectors: the sum of (sqrt(a) - sqrt(b))^2."""
    return float((a.sqrt() - b.sqrt()).square().sum())


def pairs() -> dict[str, tuple[Statistics, Statistics]]:
    """Return pairs with covariances of full rank, of lower rank, of few images, and near-singular ones."""
    basis = rotation(64)
    a = torch.linspace(0.1, 2, 64).double()
    b = torch.linspace(3, 0.5, 64).double()
    a[:40] = 0
    b[50:] = 0
    falling = torch.logspace(0, -13, 64).double()
    rising = torch.logspace(-12, 1, 64).double()
    return {
        "full rank": (Statistics.of(draw(500, 64, seed=0)), Statistics.of(draw(300, 64, seed=1, offset=0.3))),
        "rank-deficient": (gaussian(a, basis), gaussian(b, basis)),
        "few images": (Statistics.of(draw(20, 64, seed=5)), Statistics.of(draw(30, 64, seed=5, offset=1.0))),
        "near-singular": (gaussian(falling, basis), gaussian(rising, basis)),
    }
