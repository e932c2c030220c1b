"""Fréchet distance between two sets of features, from their means and covariances.

Heusel et al. 2017, "GANs trained by a two time-scale update rule", eq. 6; Dowson and Landau 1982.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked

ROUNDING = torch.finfo(torch.float64).eps


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean (d,) and unbiased covariance (d, d), float64, of feature vectors; `count` may be unknown.

    A computed covariance is symmetric up to rounding.
    """

    mean: Float[Tensor, " _"]
    cov: Float[Tensor, "_ _"]
    count: int | None

    def __post_init__(self) -> None:
        if self.mean.dtype != torch.float64 or self.cov.dtype != torch.float64:
            found = f"statistics in {self.mean.dtype} and {self.cov.dtype}"
            raise UserError(f"{found}; expected float64, less is too coarse for a matrix root")
        if self.mean.ndim != 1 or self.cov.shape != 2 * self.mean.shape:
            found = f"statistics of shapes {tuple(self.mean.shape)} and {tuple(self.cov.shape)}"
            raise UserError(f"{found}; expected (d,) and (d, d)")
        if not (self.mean.isfinite().all() and self.cov.isfinite().all()):
            raise UserError("statistics: mean or covariance is not finite")

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Statistics:
        """Compute the statistics of at least 2 feature vectors at once."""
        return cls.streaming([features])

    @classmethod
    def streaming(cls, batches: Iterable[Float[Tensor, "b d"]]) -> Statistics:
        """Compute the statistics of features that come in batches of any sizes, which are not kept."""
        shift = total = torch.zeros(0, dtype=torch.float64)
        products = torch.zeros(0, 0, dtype=torch.float64)
        count = 0
        for batch in batches:
            if not len(batch):
                continue
            if not count:
                shift = checked(batch).mean(0)
                total = torch.zeros_like(shift)
                products = torch.zeros_like(torch.outer(shift, shift))
            batch_total, batch_products = shifted_sums(batch, shift)
            total = total + batch_total
            products = products + batch_products
            count += len(batch)
        return cls.from_sums(shift, total, products, count)

    @classmethod
    def from_sums(
        cls,
        shift: Float64[Tensor, " d"],
        total: Float64[Tensor, " d"],
        products: Float64[Tensor, "d d"],
        count: int,
    ) -> Statistics:
        """Compute statistics from results of `shifted_sums` that were added up."""
        if count < 2:
            raise UserError(f"{count} images; expected at least 2, one has no covariance")
        offset = total / count
        cov = torch.addr(products, offset, offset, beta=1 / (count - 1), alpha=-count / (count - 1))
        return cls(shift + offset, cov, count)

    @functools.cached_property
    def cholesky(self) -> np.ndarray | None:
        """Cholesky's factor in the lower triangle, or None; kept, because references serve many times."""
        from scipy.linalg.lapack import dpotrf

        lower, failed = dpotrf(self.cov.numpy().T, lower=1)
        return None if failed else lower

    @functools.cached_property
    def factor(self) -> Float64[Tensor, "d r"]:
        """F with F F^T = cov, of as many columns as the rank r; kept as `cholesky` is."""
        return _factor(self.cov)

    @property
    def warning(self) -> str | None:
        """The reason why a distance from these statistics is doubtful, or None."""
        dimension = len(self.mean)
        if self.count is None or self.count > dimension:
            return None
        found = f"{self.count} images span fewer than the {dimension} dimensions of the features"
        return f"{found}: the Fréchet distance is biased upwards"


def shifted_sums(
    features: Float[Tensor, "n _"], shift: Float64[Tensor, " d"]
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
    """Sum (features - shift) and its outer products.

    With a shift near the mean, the covariance loses no digits to cancellation.
    """
    centred = checked(features)
    if centred.shape[1:] != shift.shape:
        raise UserError(f"features of {centred.shape[1]} dimensions; expected {len(shift)} as before")
    centred = centred - shift
    return centred.sum(0), centred.T @ centred


def frechet_distance(stats_a: Statistics, stats_b: Statistics) -> float:
    """Compute |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), in squared units of the features."""
    if stats_a.mean.shape != stats_b.mean.shape:
        found = f"features of {len(stats_a.mean)} and of {len(stats_b.mean)} dimensions"
        raise UserError(f"{found}; expected the same features on both sides")
    traces = float(stats_a.cov.trace() + stats_b.cov.trace())
    fewer, more = sorted((stats_a, stats_b), key=_count)
    root = _trace_of_root(fewer, more, 1e-10 * traces)
    distance = float((stats_a.mean - stats_b.mean).square().sum()) + traces - 2 * root
    if not math.isfinite(distance):
        expected = "expected features, and a covariance of them, that are not so large"
        raise UserError(f"statistics: their distance is {distance}; {expected}")
    return max(0.0, distance)  # the last digit's rounding must not make a distance negative


def _count(stats: Statistics) -> float:
    return math.inf if stats.count is None else stats.count


def _trace_of_root(a: Statistics, b: Statistics, tolerance: float) -> float:
    """Compute tr (a b)^(1/2) of two covariances; it is fastest if `a` is the one that may be singular.

    With b = F F^T the eigenvalues of F^T a F are those of a b. If b has no Cholesky factor or a has a lower
    rank, F is that of a, of as many columns as the rank, and the eigenvalues are those that are not zero. The
    root of an eigenvalue that is rounding has few digits: if more than the tolerance may be wrong, the
    singular values of F_b^T F_a, which are the roots, are added up.
    """
    values = None if a.warning or b.cholesky is None else _eigenvalues_of_product(a, b.cholesky)
    root = None if values is None else _sum_of_roots(values, tolerance)
    if root is not None:
        return root
    if a.factor.shape[1] == len(a.cov):
        if values is not None:  # they are known to be too coarse
            return float(torch.linalg.svdvals(b.factor.T @ a.factor).sum())
        a, b = b, a
    root = _sum_of_roots(torch.linalg.eigvalsh(a.factor.T @ b.cov @ a.factor), tolerance)
    return float(torch.linalg.svdvals(b.factor.T @ a.factor).sum()) if root is None else root


def _eigenvalues_of_product(a: Statistics, cholesky: np.ndarray) -> Float64[Tensor, " d"]:
    """Compute the eigenvalues of F^T a F with a Cholesky factor F."""
    from scipy.linalg.lapack import dsygst

    reduced, _ = dsygst(a.cov.numpy().T, cholesky, itype=2, lower=1)
    return torch.linalg.eigvalsh(torch.from_numpy(reduced))


def _sum_of_roots(values: Float64[Tensor, " r"], tolerance: float) -> float | None:
    """Add up the roots of eigenvalues in ascending order; None if their rounding may exceed the tolerance."""
    error = 16 * ROUNDING * values[-1:].abs()
    roots = values.clamp(min=0).sqrt()
    possible_error = float(((values.abs() + error).sqrt() - roots).sum())
    return float(roots.sum()) if possible_error <= tolerance else None


def _factor(cov: Float64[Tensor, "d d"]) -> Float64[Tensor, "d r"]:
    """Compute F with F F^T = cov, of as many columns as the rank r.

    This is Cholesky's factor with pivoting, which costs d r^2 (Higham 1990).
    """
    from scipy.linalg.lapack import dpstrf

    largest = cov.diagonal().max()
    lower, pivots, rank, _ = dpstrf(cov.numpy(), lower=1, tol=len(cov) * ROUNDING * float(largest))
    factor = torch.zeros(len(cov), rank, dtype=torch.float64)
    factor[torch.from_numpy(pivots - 1).long()] = torch.from_numpy(lower).tril()[:, :rank]
    if (cov - factor @ factor.T).abs().max() > 1e-6 * largest:
        values = torch.linalg.eigvalsh(cov)
        found = f"the eigenvalue {float(values[0]):.3g} beside {float(values[-1]):.3g}"
        raise UserError(f"statistics: not a covariance, it has {found}")
    return factor
