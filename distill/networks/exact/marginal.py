"""The exact distribution of a student's samples: its density and its score at every noise level."""

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
from distill.networks.scene.cameras import Cameras, Ring
from distill.networks.scene.renderer import in_float32
from distill.networks.scene.scene import SceneGenerator
from distill.types import Condition, Critic, Denoiser, Features, Generator, NoiseSchedule

REACH = 6.0
"""Standard deviations of z that quadrature reaches; the mass outside is 2e-9 in each dimension."""
MAX_DIMENSION = 2


@runtime_checkable
class KnownMarginal(Protocol):
    """A distribution known at every noise level.

    A call returns E[x_0 | x_t], (b, d); `log_density` returns log p_t(x_t), (b,), in nats.
    """

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    def log_density(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class PointMasses:
    """A `KnownMarginal` of weighted points plus noise.

    With `labels`, (k,), a condition selects the points with its label; without a condition all of them count.
    It equals a `GaussianMixture` of variance zero, but serves thousands of components: it never holds a
    tensor of b k d elements.
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
        """Return the log of weight times density, (b, k), up to a term that all points share."""
        alpha, variance = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None].square()
        # One product of matrices: with thousands of points, every further operation on (b, k) costs time.
        samples = torch.cat([alpha / variance * x_t, alpha**2 / (-2 * variance), torch.ones_like(alpha)], 1)
        square_norms = self.points.square().sum(1, keepdim=True)
        points = torch.cat([self.points, square_norms, self.log_weights[:, None]], 1)
        with in_float32(x_t.device):  # in half precision it would be off by tens of nats, or infinite
            log_joint = samples @ points.T
        if self.labels is None or cond.label is None:
            return log_joint - self.log_weights.logsumexp(0)
        others = excluded(self.labels, cond.label)
        share = self.log_weights.expand_as(others).masked_fill(others, -math.inf).logsumexp(1, keepdim=True)
        return log_joint.masked_fill(others, -math.inf) - share


@torch.no_grad()
def marginal(generator: Generator, schedule: NoiseSchedule, points: int = 64) -> KnownMarginal:
    """Return the distribution of a student's samples, without gradient to its parameters.

    An affine student's is a Gaussian for each label. Any other's is a sum of noised points, one for each node
    of a grid of `points` nodes in each dimension of z. There the trapezoid rule is exact to exp(-2 (pi
    sigma/(alpha gap))^2), where `gap` is the distance between neighbouring points. That of scenes seen from a
    ring of cameras is a point for each scene and camera. More than two dimensions or several steps raise
    ValueError.
    """
    if isinstance(generator, SceneGenerator):
        return _views_of(generator, schedule)
    labels = torch.arange(generator.label_count) if generator.label_count else None
    if isinstance(generator, Affine):
        axes, scales, _ = torch.linalg.svd(generator.matrix)
        weights, variances = torch.ones(len(axes)), scales.square()
        return GaussianMixture(weights, generator.mean.clone(), variances, schedule, axes, labels).to(axes)
    z, log_weights = (part.to(next(generator.parameters())) for part in grid(_dimension(generator), points))
    if labels is None:
        return PointMasses(generator(z, Condition()), log_weights, schedule)
    labels = labels.to(z.device).repeat_interleave(len(z))
    images = generator(z.repeat(generator.label_count, 1), Condition(labels))
    return PointMasses(images, log_weights.repeat(generator.label_count), schedule, labels)


def _views_of(generator: SceneGenerator, schedule: NoiseSchedule) -> PointMasses:
    """Return the images of all scenes from all cameras, (k, d), as points with the labels of their views."""
    sizes = generator.sizes
    if not isinstance(sizes.cameras, Ring) or sizes.shaded or (sizes.stratified and generator.training):
        raise ValueError(
            "the student's views are not finitely many; expected cameras: ring, stratified: false, shaded: 0"
        )
    weights = next(generator.parameters())
    labels = torch.arange(sizes.cameras.view_count, device=weights.device)
    cameras = Cameras.from_rows(sizes.cameras.numbered(labels).rows().to(weights))
    points = [
        generator.images_from(cameras, torch.full_like(labels, scene)).flatten(1)
        for scene in range(sizes.particles)
    ]
    images = torch.cat(points)
    return PointMasses(images, images.new_zeros(len(images)), schedule, labels.repeat(sizes.particles))


def _dimension(generator: Generator) -> int:
    """Return the dimension of a student's vectors, and refuse students that quadrature cannot serve."""
    if generator.evaluations > 1:
        raise ValueError(
            f"the student takes {generator.evaluations} steps; "
            "expected 1, since only then the distribution is known exactly"
        )
    dimension = math.prod(generator.image_shape)
    if dimension > MAX_DIMENSION:
        raise ValueError(
            f"the student makes vectors of {dimension} elements; "
            f"expected at most {MAX_DIMENSION} for quadrature, or affine"
        )
    return dimension


@functools.cache
def grid(dimension: int, points: int) -> tuple[Tensor, Tensor]:
    """Return the nodes (n, d) of a uniform grid, and their log weights (n,) under N(0, I), unnormalised."""
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    return nodes, -nodes.square().sum(1) / 2


class ExactFakeScore(Denoiser):
    """A perfect fake score: it predicts x_0 exactly for the student as it is now, and has no parameters.

    Its feature at the depth "log_ratio", (b,), is log p_t/q_t of teacher p and student q, without gradient:
    the logit of a perfect discriminator.
    """

    def __init__(self, teacher: GaussianMixture, generator: Generator, points: int) -> None:
        super().__init__()
        self.schedule = teacher.schedule
        self.image_shape, self.label_count = teacher.image_shape, teacher.label_count
        self.points = points
        self._others = (
            teacher,
            generator,
        )  # in a tuple, so that their parameters do not become this module's

    @property
    def depth_channels(self) -> dict[str, int]:
        """Return none for heads to read: its one feature is the answer itself."""
        return {}

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, Features]:
        q = self._marginal()
        x0 = q(x_t.flatten(1), t, cond).view_as(x_t)
        return (x0, self._features(q, x_t, t, cond, depths)) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        return self._features(self._marginal(), x_t, t, cond, depths)

    def target_weight(self, t: Tensor) -> Tensor:
        """Return ones: its error is only logged."""
        return torch.ones_like(t)

    def _marginal(self) -> KnownMarginal:
        _, generator = self._others
        return marginal(generator, self.schedule, self.points)

    @torch.no_grad()
    def _features(
        self, q: KnownMarginal, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> Features:
        teacher, _ = self._others
        known = {"log_ratio": teacher.log_density(x_t, t, cond) - q.log_density(x_t.flatten(1), t, cond)}
        return {depth: known[depth] for depth in depths}


class ExactDiscriminator(Critic):
    """A discriminator whose logit is the exact log p_t/q_t."""

    reads = "fake"

    @property
    def depths(self) -> Sequence[str]:
        return ("log_ratio",)

    def forward(self, features: Features) -> Tensor:
        return features["log_ratio"]
