"""The distribution of a student's samples, exactly: its density and its score at every noise level."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.models.affine import Affine
from distill.models.gaussian_mixture import GaussianMixture
from distill.schedules import NoiseSchedule
from distill.types import Condition, Critic, Denoiser, Features, Generator

REACH = 5.0
"""Quadrature over z goes this many standard deviations out: what is left has mass 6e-7 in each dimension."""
LARGEST_DIMENSION = 2


@torch.no_grad()
def marginal(generator: Generator, schedule: NoiseSchedule, points: int = 64) -> GaussianMixture:
    """The student's distribution, as a mixture without gradient to its weights: a Gaussian for each label where it is affine.

    Otherwise one atom for each node of a grid of `points` in each dimension of z, noised; the trapezoid rule is exact to
    exp(-2 (pi sigma/(alpha gap))^2), where `gap` is the distance between neighbouring atoms. Raises ValueError in more than two dimensions.
    """
    labels = torch.arange(generator.label_count) if generator.label_count else None
    if isinstance(generator, Affine):
        axes, scales, _ = torch.linalg.svd(generator.matrix)
        return GaussianMixture(torch.ones(len(axes)), generator.mean.clone(), scales.square(), schedule, axes, labels)
    dimension = math.prod(generator.image_shape)
    if dimension > LARGEST_DIMENSION:
        raise ValueError(f"the student makes vectors of {dimension} elements; expected at most {LARGEST_DIMENSION} for quadrature, or affine")
    z, weights = grid(dimension, points)
    like = next(generator.parameters())
    z, weights = z.to(like), weights.to(like)
    if labels is None:
        atoms = generator(z, Condition())
    else:
        labels = labels.repeat_interleave(len(z)).to(like.device)
        atoms = generator(z.repeat(generator.label_count, 1), Condition(labels))
        weights = weights.repeat(generator.label_count)
    return GaussianMixture(weights, atoms, torch.zeros_like(atoms), schedule, labels=labels)


@functools.cache
def grid(dimension: int, points: int) -> tuple[Tensor, Tensor]:
    """Nodes (n, d) of N(0, I) on a uniform grid, and their weights (n,)."""
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    return nodes, (-nodes.square().sum(1) / 2).exp()


class ExactFakeScore(Denoiser):
    """What a perfect fake score predicts for the student as it is now. It has nothing to train.

    Its feature at the depth "log_ratio", (b,), is log p_t/q_t of the teacher to the student: what a perfect discriminator says.
    """

    def __init__(self, teacher: GaussianMixture, generator: Generator, points: int) -> None:
        super().__init__()
        self.schedule, self.image_shape, self.label_count = teacher.schedule, teacher.image_shape, teacher.label_count
        self.points = points
        self._others = (teacher, generator)  # in a tuple: their weights are not this module's

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str] = ()) -> Tensor | tuple[Tensor, Features]:
        q = self._marginal()
        return (q(x_t, t, cond), self._features(q, x_t, t, cond, depths)) if depths else q(x_t, t, cond)

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        return self._features(self._marginal(), x_t, t, cond, depths)

    def target_weight(self, t: Tensor) -> Tensor:
        """One: its error is only looked at."""
        return torch.ones_like(t)

    def _marginal(self) -> GaussianMixture:
        return marginal(self._others[1], self.schedule, self.points)

    def _features(self, q: GaussianMixture, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
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
