"""The distribution of a student's samples, exactly: its density and its score at every noise level."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture, excluded
from distill.types import Condition, Critic, Denoiser, Features, Generator, NoiseSchedule

REACH = 6.0
"""Quadrature over z goes this many standard deviations out: what is left has mass 2e-9 in each dimension."""
MAX_DIMENSION = 2


@runtime_checkable
class KnownMarginal(Protocol):
    """A distribution known at every noise level: E[x_0 | x_t] where called, (b, d), and log p_t(x_t), (b,), in nats."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    def log_density(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class PointMasses:
    """Weighted points, noised: a `KnownMarginal`. `labels` (k,) selects points by condition; without a condition all count.

    It is a `GaussianMixture` of variances zero, for thousands of components: nothing of size b k d is ever held.
    """

    points: Float[Tensor, "k d"]
    log_weights: Float[Tensor, " k"]
    schedule: NoiseSchedule
    labels: Int64[Tensor, " k"] | None = None

    def __call__(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b d"]:
        return self._log_joint(x_t, t, cond).softmax(1) @ self.points

    def log_density(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, " b"]:
        variance = self.schedule.sigma(t).square()
        normaliser = (x_t.square().sum(1) / variance + x_t.shape[1] * (2 * math.pi * variance).log()) / 2
        return self._log_joint(x_t, t, cond).logsumexp(1) - normaliser

    def _log_joint(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """log of weight times density, (b, k), but for what all points share."""
        alpha, variance = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None].square()
        # One product of matrices: with thousands of points, every further operation on (b, k) is felt.
        samples = torch.cat([alpha / variance * x_t, alpha**2 / (-2 * variance), torch.ones_like(alpha)], 1)
        log_joint = (
            samples
            @ torch.cat(
                [self.points, self.points.square().sum(1, keepdim=True), self.log_weights[:, None]], 1
            ).T
        )
        if self.labels is None or cond.label is None:
            return log_joint - self.log_weights.logsumexp(0)
        others = excluded(self.labels, cond.label)
        share = self.log_weights.expand_as(others).masked_fill(others, -math.inf).logsumexp(1, keepdim=True)
        return log_joint.masked_fill(others, -math.inf) - share


@torch.no_grad()
def marginal(generator: Generator, schedule: NoiseSchedule, points: int = 64) -> KnownMarginal:
    """The student's distribution, without gradient to its weights: a Gaussian for each label where it is affine.

    Otherwise one atom for each node of a grid of `points` in each dimension of z, noised; the trapezoid rule is exact to
    exp(-2 (pi sigma/(alpha gap))^2), where `gap` is the distance between neighbouring atoms. Raises ValueError in more than two dimensions, and for a
    student of several steps.
    """
    labels = torch.arange(generator.label_count) if generator.label_count else None
    if isinstance(generator, Affine):
        axes, scales, _ = torch.linalg.svd(generator.matrix)
        return GaussianMixture(
            torch.ones(len(axes)), generator.mean.clone(), scales.square(), schedule, axes, labels
        ).to(axes)
    if generator.evaluations > 1:
        raise ValueError(
            f"the student takes {generator.evaluations} steps; expected 1, of which alone the distribution is known exactly"
        )
    dimension = math.prod(generator.image_shape)
    if dimension > MAX_DIMENSION:
        raise ValueError(
            f"the student makes vectors of {dimension} elements; expected at most {MAX_DIMENSION} for quadrature, or affine"
        )
    z, log_weights = (part.to(next(generator.parameters())) for part in grid(dimension, points))
    if labels is None:
        return PointMasses(generator(z, Condition()), log_weights, schedule)
    labels = labels.to(z.device).repeat_interleave(len(z))
    return PointMasses(
        generator(z.repeat(generator.label_count, 1), Condition(labels)),
        log_weights.repeat(generator.label_count),
        schedule,
        labels,
    )


@functools.cache
def grid(dimension: int, points: int) -> tuple[Tensor, Tensor]:
    """Nodes (n, d) of N(0, I) on a uniform grid, and the logarithms of their weights (n,), up to a constant."""
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    return nodes, -nodes.square().sum(1) / 2


class ExactFakeScore(Denoiser):
    """What a perfect fake score predicts for the student as it is now. It has nothing to train.

    Its feature at the depth "log_ratio", (b,), is log p_t/q_t of the teacher to the student, without gradient: what a perfect discriminator says.
    """

    def __init__(self, teacher: GaussianMixture, generator: Generator, points: int) -> None:
        super().__init__()
        self.schedule, self.image_shape, self.label_count = (
            teacher.schedule,
            teacher.image_shape,
            teacher.label_count,
        )
        self.points = points
        self._others = (teacher, generator)  # in a tuple: their weights are not this module's

    @property
    def depth_channels(self) -> dict[str, int]:
        """None that heads could read: its one feature is the answer."""
        return {}

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, Features]:
        q = self._marginal()
        return (q(x_t, t, cond), self._features(q, x_t, t, cond, depths)) if depths else q(x_t, t, cond)

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        return self._features(self._marginal(), x_t, t, cond, depths)

    def target_weight(self, t: Tensor) -> Tensor:
        """One: its error is only looked at."""
        return torch.ones_like(t)

    def _marginal(self) -> KnownMarginal:
        return marginal(self._others[1], self.schedule, self.points)

    @torch.no_grad()
    def _features(
        self, q: KnownMarginal, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> Features:
        known = {"log_ratio": self._others[0].log_density(x_t, t, cond) - q.log_density(x_t, t, cond)}
        return {depth: known[depth] for depth in depths}


class ExactDiscriminator(Critic):
    """Its logit is the exact log p_t/q_t."""

    reads = "fake"

    @property
    def depths(self) -> Sequence[str]:
        return ("log_ratio",)

    def forward(self, features: Features) -> Tensor:
        return features["log_ratio"]
