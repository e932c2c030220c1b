"""Distances between the student's features and those of real images, as losses of each sample.

Both distances depend on the whole distribution of the student, of which a batch shows little. Each therefore
remembers the features of past batches, and only the present ones have a gradient: the memory stands in for
the distribution in the derivative of the distance, which is an expectation over samples (docs/mathematics.md,
section 18). What is remembered does not depend on how a batch is split.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

PENDING = 0.0
"""Distance that is reported before there is one."""


class FeatureDistance(nn.Module):
    """A distance of features (b, d) to real ones, with the memory that it needs as its buffers."""

    seen: Tensor
    """Number of the student's features so far."""

    def prepare(self, real: Float[Tensor, "n d"]) -> None:
        """Take the real features, which are not part of checkpoints."""
        raise NotImplementedError

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return a loss per sample whose mean has the gradient of the distance over d."""
        raise NotImplementedError

    def distance(self, features: Float[Tensor, "b d"]) -> Tensor:
        """Return the distance, detached."""
        raise NotImplementedError

    def remember(self, features: Float[Tensor, "n d"]) -> None:
        """Take the features of a step, of the whole batch and in its order, into the memory."""
        raise NotImplementedError


class FrechetDistance(FeatureDistance):
    """The Fréchet distance between Gaussians of equal mean and covariance (Dowson and Landau 1982).

    Its derivative with respect to the distribution moves each feature phi to T(phi), the optimal transport of
    one Gaussian to the other:

        T(phi) = m_r + A (A S A)^(-1/2) A (phi - m),  A = S_r^(1/2)

    so the loss is |phi - sg[T(phi)]|^2/d, whose mean over the student is the distance over d. m and S are
    means over about the last `memory` features, weighted exponentially. `ridge` times the mean variance of
    the real features is added to both covariances, which keeps T bounded where the student does not vary. The
    term counts after `memory` features. In the manner of FD-loss (Yang et al. 2026, arXiv:2604.28190), whose
    moments include the present batch.
    """

    weight: Tensor
    total: Tensor
    products: Tensor
    mean: Tensor
    transport: Tensor
    value: Tensor
    real_mean: Tensor
    real_root: Tensor

    def __init__(self, dimension: int, memory: int, ridge: float = 1e-3) -> None:
        super().__init__()
        self.memory, self.ridge = memory, ridge
        zeros = torch.zeros(dimension, dtype=torch.float64)
        square = torch.zeros(dimension, dimension, dtype=torch.float64)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        # Sums of deviations from the real mean, and of their products.
        self.register_buffer("total", zeros.clone())
        self.register_buffer("products", square.clone())
        self.register_buffer("mean", zeros.clone())
        self.register_buffer("transport", square.clone())
        self.register_buffer("value", torch.full((), PENDING, dtype=torch.float64))
        self.register_buffer("real_mean", zeros.clone(), persistent=False)
        self.register_buffer("real_root", square.clone(), persistent=False)
        self.added = 0.0
        """The variance that is added to both covariances."""

    def prepare(self, real: Float[Tensor, "n d"]) -> None:
        features = real.to(self.total)
        self.real_mean.copy_(features.mean(0))
        centred = features - self.real_mean
        cov = centred.T @ centred / (len(features) - 1)
        self.added = self.ridge * float(cov.diagonal().mean())
        self.real_root.copy_(_root(self._smoothed(cov))[0])

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        with torch.no_grad():
            moved = (features.double() - self.mean) @ self.transport
            target = (self.real_mean + moved).to(features.dtype)
        loss = (features - target).square().mean(1)
        return torch.where(self.seen >= self.memory, loss, 0.0)

    def distance(self, features: Float[Tensor, "b d"]) -> Tensor:
        return self.value

    @torch.no_grad()
    def remember(self, features: Float[Tensor, "n d"]) -> None:
        centred = features.double() - self.real_mean
        keep = math.exp(-len(features) / self.memory)
        self.seen += len(features)
        self.weight.mul_(keep).add_(len(features))
        self.total.mul_(keep).add_(centred.sum(0))
        self.products.mul_(keep).add_(centred.T @ centred)
        mean = self.total / self.weight
        cov = self._smoothed(self.products / self.weight - torch.outer(mean, mean))
        middle = self.real_root @ cov @ self.real_root
        try:
            root, inverse = _root((middle + middle.T) / 2)
        except torch.linalg.LinAlgError:  # features that are not finite: the check of losses ends the run
            return
        self.mean.copy_(self.real_mean + mean)
        self.transport.copy_(self.real_root @ inverse @ self.real_root)
        traces = cov.trace() + self.real_root.square().sum()
        self.value.copy_(mean.square().sum() + traces - 2 * root.trace())

    def _smoothed(self, cov: Tensor) -> Tensor:
        return cov + self.added * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)


def _root(matrix: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    """Return the root of a positive definite matrix, and the inverse of the root."""
    values, axes = torch.linalg.eigh(matrix)
    # Rounding may leave eigenvalues of zero or below.
    roots = values.clamp_min(torch.finfo(values.dtype).eps * values[-1]).sqrt()
    return (axes * roots) @ axes.T, (axes / roots) @ axes.T


class KernelDistance(FeatureDistance):
    """The squared maximum mean discrepancy (MMD) under a Gaussian kernel (Gretton et al. 2012).

    With the kernel k and the distributions q and p of student and data

        MMD^2 = E_qq k - 2 E_qp k + E_pp k,   k(a, b) = exp(-|a - b|^2/(2 bandwidth^2))

    and the loss of a sample is twice its witness E_q k(phi, .) - E_p k(phi, .), over d. q is a queue of the
    last `memory` features of the student, p all real features that were given. CMMD (Jayasumana et al. 2024,
    arXiv:2401.09603) is this distance of CLIP's features, times 1000.
    """

    queue: Tensor
    real: Tensor
    centre: Tensor

    def __init__(self, dimension: int, memory: int, bandwidth: float | None = None) -> None:
        super().__init__()
        self.memory, self.bandwidth = memory, bandwidth
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("queue", torch.zeros(memory, dimension))
        self.register_buffer("real", torch.zeros(0, dimension), persistent=False)
        self.register_buffer("centre", torch.zeros(dimension), persistent=False)
        self.within_real = 0.0
        """The mean kernel between two real features."""

    def prepare(self, real: Float[Tensor, "n d"]) -> None:
        self.centre = real.mean(0)
        self.real = real - self.centre
        if self.bandwidth is None:
            self.bandwidth = float(self.real.square().sum(1).mean().sqrt())
        parts = [
            self._kernel(part, self.real).sum(dtype=torch.float64) for part in torch.split(self.real, 1024)
        ]
        self.within_real = float(torch.stack(parts).sum()) / len(real) ** 2

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        among, across = self._means(features)
        return torch.where(self.seen > 0, 2 * (among - across) / features.shape[1], 0.0)

    @torch.no_grad()
    def distance(self, features: Float[Tensor, "b d"]) -> Tensor:
        among, across = self._means(features)
        distance = among.mean() - 2 * across.mean() + self.within_real
        return torch.where(self.seen > 0, distance, PENDING)

    @torch.no_grad()
    def remember(self, features: Float[Tensor, "n d"]) -> None:
        kept = features[-self.memory :].to(self.queue)
        first = self.seen + len(features) - len(kept)
        self.queue[(first + torch.arange(len(kept), device=kept.device)) % self.memory] = kept - self.centre
        self.seen += len(features)

    def _means(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return each feature's mean kernel with the queue and with the real features, (b,) each."""
        centred = features - self.centre
        is_filled = torch.arange(self.memory, device=features.device) < self.seen
        among = torch.where(is_filled, self._kernel(centred, self.queue), 0.0).sum(1)
        return among / self.seen.clamp(1, self.memory), self._kernel(centred, self.real).mean(1)

    def _kernel(self, a: Float[Tensor, "a d"], b: Float[Tensor, "b d"]) -> Float[Tensor, "a b"]:
        assert self.bandwidth is not None
        b = b.to(a)
        squared = a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)
        return (squared.clamp_min(0) / (-2 * self.bandwidth**2)).exp()
