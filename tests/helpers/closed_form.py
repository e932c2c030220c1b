"""Teachers and students in closed form, and quadrature over them.

Their noised marginals, scores, posterior means and density ratios are known exactly. The teacher is a
Gaussian mixture, the student x_0 = mean + std z. `ORACLE` holds values computed once, in float64, by other
code than this: D_f, the expansion E_q[h |delta|^2], the gradients of both with respect to (mean, std), and
each part of the latter gradient. This module does not depend on `distill.objectives`: its gradients are
autograd's through the exact densities.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.divergences import Divergence
from distill.types import LossOutput, Scores

DOUBLE = torch.float64
ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "closed_form_1d.json").read_text())
ROWS = [dict(row, id=f"{row['divergence']}-{row['alpha']}-{row['sigma']}") for row in ORACLE["rows"]]
LEVELS = {
    "ve": (1.0, 0.7),
    "vp": (0.8, 0.6),
    "flow-early": (1 - 0.45, 0.45),
    "flow-late": (1 - 0.8, 0.8),
}
"""(alpha, sigma) of the usual schedules, at levels where Neyman's chi^2 of the oracle's teacher and student
is finite."""


def tensor(values: float | list) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Independent 1-D Gaussian mixtures of k components, one for each element of x.

    The parameters are (..., k) for x of shape (b, ...). alpha and sigma broadcast against x.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log joint density of x_t and component, x_t - alpha mean, and the variance of x_t.

        Each has a last axis of components.
        """
        alpha, sigma = alpha[..., None], sigma[..., None]
        variance = (alpha * self.stds) ** 2 + sigma**2
        centred = x[..., None] - alpha * self.means
        log_joint = self.weights.log() - centred**2 / (2 * variance) - (2 * math.pi * variance).log() / 2
        return log_joint, centred, variance

    def log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the log density of each element of x_t."""
        return self._components(x, alpha, sigma)[0].logsumexp(-1)

    def prediction(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x_0 | x_t], the prediction of a perfect denoiser."""
        log_joint, centred, variance = self._components(x, alpha, sigma)
        means_given_x = self.means + alpha[..., None] * self.stds**2 * centred / variance
        return (log_joint.softmax(-1) * means_given_x).sum(-1)

    def score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the gradient of the log density at x_t, by Tweedie's formula."""
        return (alpha * self.prediction(x, alpha, sigma) - x) / sigma**2

    def detach(self) -> Mixture:
        return Mixture(self.weights.detach(), self.means.detach(), self.stds.detach())


def gaussian(mean: Tensor, std: Tensor) -> Mixture:
    """Return a mixture of one component."""
    return Mixture(torch.ones(1, dtype=DOUBLE), mean[..., None], std[..., None])


TEACHER = Mixture(*(tensor(ORACLE["teacher"][name]) for name in ("weights", "means", "stds")))
STUDENT = tensor([ORACLE["student"]["mean"], ORACLE["student"]["std"]])
"""(mean, std) of the oracle's student."""

IMAGE_SHAPE = (2, 1, 1)
IMAGE_TEACHER = gaussian(tensor([0.5, -0.2]).reshape(IMAGE_SHAPE), tensor([0.6, 0.8]).reshape(IMAGE_SHAPE))
IMAGE_STUDENT = tensor([[0.1, 0.3], [0.9, 1.1]]).reshape(2, *IMAGE_SHAPE)
"""(mean, std) of a student whose samples are (b, c, h, w), with two elements each."""


def observe(
    x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, teacher: Mixture, student: Mixture
) -> Scores:
    """Return the `Scores` that an objective gets in training.

    The parameters of both networks are constants, but their inputs are in the graph. log_ratio is in the
    graph too: an objective that forgets to detach it gets another gradient.
    """
    student = student.detach()
    x_t = alpha * x0 + sigma * eps
    log_ratio = teacher.log_density(x_t, alpha, sigma) - student.log_density(x_t, alpha, sigma)
    predictions = (network.prediction(x_t, alpha, sigma) for network in (teacher, student))
    return Scores(x0, x_t, alpha, sigma, *predictions, log_ratio.flatten(1).sum(1))


def draw(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw x_0 of `IMAGE_STUDENT`, eps, and alpha and sigma of each sample; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, count, *IMAGE_SHAPE, generator=generator, dtype=DOUBLE)
    level = torch.rand(2, count, 1, 1, 1, generator=generator, dtype=DOUBLE)
    mean, std = IMAGE_STUDENT
    return mean + std * z, eps, 0.3 + 0.7 * level[0], 0.3 + 1.5 * level[1]


def observe_images(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Scores:
    """Return the `Scores` of samples of `IMAGE_STUDENT`."""
    return observe(x0, eps, alpha, sigma, IMAGE_TEACHER, gaussian(*IMAGE_STUDENT))


def _trapezoid(reach: float, count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the trapezoid rule on [-reach, reach]."""
    nodes = torch.linspace(-reach, reach, count, dtype=DOUBLE)
    return nodes, torch.full_like(nodes, 2 * reach / (count - 1))


def turned_nodes(
    std: Tensor, alpha: Tensor, sigma: Tensor, reach: float = 25.0, count: int = 2001
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes z, eps and weights of an expectation over N(0, I), rotated so that one axis is that of
    x_t.

    Each has two more axes than alpha. Along x_t the trapezoid rule is spectrally exact. Across x_t every loss
    and its gradient are polynomials of x_0 of low degree, and three Gauss-Hermite nodes integrate degree
    five.
    """
    along, along_weight = _trapezoid(reach, count)
    across, across_weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(3))
    weight = along_weight[:, None] * (-(along[:, None] ** 2) / 2).exp() * across_weight / (2 * math.pi)
    alpha, sigma, along = alpha[..., None, None], sigma[..., None, None], along[:, None]
    length = torch.sqrt((alpha * std) ** 2 + sigma**2)
    cosine, sine = alpha * std / length, sigma / length
    return (
        cosine * along - sine * across,
        sine * along + cosine * across,
        weight.expand(*length.shape[:-2], -1, -1),
    )


def expected_gradient(
    objective: Callable[[Scores], LossOutput], alpha: Tensor, sigma: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the gradient of E[loss] with respect to the oracle student's (mean, std), (2,), as in training.

    With several levels it is the sum over them, weighted by `weight`.
    """
    z, eps, node_weight = turned_nodes(STUDENT[1], alpha, sigma)
    if weight is not None:
        node_weight = node_weight * weight[..., None, None]
    parameters = STUDENT.clone().requires_grad_()
    x0 = parameters[0] + parameters[1] * z.reshape(-1, 1)
    per_node = (level[..., None, None].expand(z.shape).reshape(-1, 1) for level in (alpha, sigma))
    loss = objective(observe(x0, eps.reshape(-1, 1), *per_node, TEACHER, gaussian(*parameters))).loss
    return torch.autograd.grad((node_weight.reshape(-1) * loss).sum(), parameters)[0]


def expected_image_gradient(
    objective: Callable[[Scores], LossOutput], alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Return the gradient of E[loss] with respect to `IMAGE_STUDENT`, (2, *IMAGE_SHAPE).

    The quadrature is the product of those of the two elements.
    """
    std = IMAGE_STUDENT[1].flatten()
    first, second = (
        [part.flatten() for part in turned_nodes(one, alpha, sigma, reach=12.0, count=61)] for one in std
    )
    z, eps = (torch.cartesian_prod(first[i], second[i]).reshape(-1, *IMAGE_SHAPE) for i in (0, 1))
    weight = torch.outer(first[2], second[2]).flatten()
    parameters = IMAGE_STUDENT.clone().requires_grad_()
    per_node = (level.expand(len(z), 1, 1, 1) for level in (alpha, sigma))
    loss = objective(observe_images(parameters[0] + parameters[1] * z, eps, *per_node)).loss
    return torch.autograd.grad((weight * loss).sum(), parameters)[0]


def integrate(
    integrand: Callable[[Mixture, Tensor, Tensor], Tensor], alpha: Tensor, sigma: Tensor, parameters: Tensor
) -> Tensor:
    """Return int q(x) integrand(q, x, log r) dx at each level, on nodes of x that do not depend on the
    parameters."""
    q = gaussian(*parameters)
    nodes, node_weight = _trapezoid(25.0, 2001)
    mean, std = parameters.detach()
    spread = torch.sqrt((alpha * std) ** 2 + sigma**2)[..., None]
    alpha, sigma = alpha[..., None], sigma[..., None]
    x = alpha * mean + spread * nodes
    log_q = q.log_density(x, alpha, sigma)
    log_ratio = TEACHER.log_density(x, alpha, sigma) - log_q
    return (spread * node_weight * log_q.exp() * integrand(q, x, log_ratio)).sum(-1)


def divergence_value(
    divergence: Divergence, alpha: Tensor, sigma: Tensor, parameters: Tensor = STUDENT
) -> Tensor:
    """Return D_f(p_t||q_t) of the oracle's teacher and a student, differentiable in the student's (mean,
    std)."""
    return integrate(lambda _q, _x, u: divergence.f(u), alpha, sigma, parameters)


def expansion_value(
    divergence: Divergence, alpha: Tensor, sigma: Tensor, parameters: Tensor = STUDENT
) -> Tensor:
    """Return E_q[h(r) |s_p - s_q|^2] of the oracle's teacher and a student, differentiable in the student."""

    def integrand(q: Mixture, x: Tensor, u: Tensor) -> Tensor:
        levels = (alpha[..., None], sigma[..., None])
        return divergence.h(u) * (TEACHER.score(x, *levels) - q.score(x, *levels)) ** 2

    return integrate(integrand, alpha, sigma, parameters)


def gradient_of(function: Callable[[Tensor], Tensor], at: Tensor = STUDENT) -> Tensor:
    """Return the gradient of a function of a student's (mean, std)."""
    parameters = at.clone().requires_grad_()
    return torch.autograd.grad(function(parameters), parameters)[0]


def sampled_gradient(
    objective: Callable[[Scores], LossOutput], alpha: float, sigma: float, count: int = 1_000_000
) -> tuple[Tensor, Tensor]:
    """Return a sampled gradient with respect to the oracle student's (mean, std) and its standard error, (2,)
    each."""
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, count, 1, generator=generator, dtype=DOUBLE)
    x0 = (STUDENT[0] + STUDENT[1] * z).requires_grad_()
    levels = (tensor(level).expand(count, 1) for level in (alpha, sigma))
    loss = objective(observe(x0, eps, *levels, TEACHER, gaussian(*STUDENT))).loss
    per_sample = torch.autograd.grad(loss.sum(), x0)[0]
    gradients = torch.cat([per_sample, per_sample * z], 1)
    return gradients.mean(0), gradients.std(0) / math.sqrt(count)


def assert_near(
    actual: Tensor, expected: Tensor | list, tolerance: float, scale: float | None = None
) -> None:
    """Assert that the largest error is at most `tolerance` times the largest expected value, or times
    `scale`."""
    expected = torch.as_tensor(expected, dtype=DOUBLE)
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max().item()
    scale = expected.abs().max().item() if scale is None else scale
    assert error <= tolerance * scale, (
        f"{actual.tolist()} is not {expected.tolist()}: relative error {error / scale:.1e} > {tolerance:.0e}"
    )
