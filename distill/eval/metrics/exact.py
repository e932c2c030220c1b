"""Laboratory metrics: a student of vectors against a Gaussian mixture, exact where the mathematics allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.divergences import parse
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.exact.marginal import KnownMarginal, marginal
from distill.types import Condition, Generator

LEVEL = 0.3
"""Noise-to-signal ratio sigma/alpha at which divergences are compared.

Without noise they can be infinite: a student's samples may lie on a curve, where its density is infinite.
"""
DIVERGENCES = ("reverse_kl", "forward_kl", "jensen_shannon")
FAR = 30.0
"""Maximum of |log p - log q|, in nats: larger log-ratios are clamped."""
STRAY = 4.0
"""A sample further than this many standard deviations from every component belongs to none."""
CHUNK = 256
"""Grid nodes whose densities are computed at once."""


def mode_shares(
    teacher: GaussianMixture, samples: Float[Tensor, "n d"], cond: Condition | None = None
) -> Float[Tensor, " k"]:
    """Return the share of the samples that each component is most responsible for."""
    t = teacher.schedule.t(samples.new_full((len(samples),), 1e-3))
    alpha = teacher.schedule.alpha(t)[:, None]
    nearest = teacher.responsibilities(alpha * samples, t, cond or Condition()).argmax(1)
    return torch.bincount(nearest, minlength=len(teacher.means)) / len(samples)


def stray_share(teacher: GaussianMixture, samples: Float[Tensor, "n d"]) -> float:
    """Return the share of the samples further than `STRAY` standard deviations from every component."""
    offset = samples[:, None] - teacher.means
    along = offset if teacher.axes is None else torch.einsum("kde,bkd->bke", teacher.axes, offset)
    distance = (along.square() / teacher.variances).sum(2).sqrt()
    return (distance.min(1).values > STRAY).float().mean().item()


def divergences_to_teacher(
    names: Sequence[str],
    teacher: GaussianMixture,
    student: KnownMarginal,
    level: float = LEVEL,
    points: int = 80,
    reach: float = 8.0,
) -> dict[str, float]:
    """Compute D_f(p_t||q_t) for each name at sigma/alpha = `level`.

    p_t is the teacher's density, q_t the student's. Integrates by the trapezoid rule on [-reach, reach]^d
    with `points` nodes an axis, d at most 2, in float64, without a condition. The log-ratio is clamped to
    +-`FAR`, so a student far from its teacher has a KL of `FAR` nats either way. The student's mass outside
    the grid counts; the teacher has none there.
    """
    dimension = teacher.image_shape[0]
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    cell = (2 * reach / (points - 1)) ** dimension
    nodes = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    totals = dict.fromkeys(names, 0.0)
    outside = 1.0
    for x in nodes.split(CHUNK):
        log_p = _log_density(teacher, teacher, x, level)
        log_q = _log_density(student, teacher, x, level)
        log_ratio = (log_p - log_q).clamp(-FAR, FAR)
        # log q, and where q vanishes but p does not, the log q that fits the clamped ratio
        log_mass = torch.where(log_ratio > 0, log_p - log_ratio, log_q)
        for name in names:
            totals[name] += float((cell * log_mass.exp() * parse(name).f(log_ratio)).sum())
        outside -= float(cell * log_q.exp().sum())
    off_grid = axis.new_tensor(-FAR)
    return {
        name: total + max(outside, 0.0) * float(parse(name).f(off_grid)) for name, total in totals.items()
    }


def _log_density(
    model: GaussianMixture | KnownMarginal, teacher: GaussianMixture, x: Float[Tensor, "n d"], level: float
) -> Float[Tensor, " n"]:
    """Return the log-density of x_t/alpha at the nodes x."""
    t = teacher.schedule.t(x.new_full((len(x),), level))
    alpha = teacher.schedule.alpha(t)
    return model.log_density(alpha[:, None] * x, t, Condition()) + x.shape[1] * alpha.log()


class LaboratoryMonitor:
    """Measures samples (n, d) during training.

    `mode_error` is half the sum of |share - weight| over the components, `stray` the share of samples that
    belong to none.
    """

    def __init__(self, teacher: GaussianMixture) -> None:
        self.teacher = teacher

    def features(self, images: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the samples as they are."""
        return images

    def measure(self, features: Float[Tensor, "n d"]) -> dict[str, float]:
        """Measure samples."""
        error = (mode_shares(self.teacher, features) - self.teacher.log_weights.exp()).abs().sum() / 2
        return {"mode_error": error.item(), "stray": stray_share(self.teacher, features)}


@torch.no_grad()
def evaluate_vectors(
    teacher: GaussianMixture, generator: Generator, samples: Float[Tensor, "n d"]
) -> dict[str, Any]:
    """Measure a student's samples: their shares in the teacher's components, and how many belong to none.

    For a one-step student, whose density is known, also its divergences from the teacher at sigma/alpha =
    `LEVEL`, in nats.
    """
    teacher, generator, samples = teacher.double(), generator.double(), samples.double()
    found: dict[str, Any] = {}
    if generator.evaluations == 1:
        student = marginal(generator, teacher.schedule, points=128)
        found |= divergences_to_teacher(DIVERGENCES, teacher, student)
    found |= LaboratoryMonitor(teacher).measure(samples)
    found["mode_shares"] = mode_shares(teacher, samples).tolist()
    return found


def render(results: dict[str, Any]) -> str:
    """Return the results as lines of text."""
    student = results["student"]
    if DIVERGENCES[0] in student:
        known = f"in nats at sigma/alpha = {LEVEL}"
    else:
        known = "are known only for one-step students"
    lines = [f"laboratory: {results['n']} samples; divergences {known}"]
    for name in (*DIVERGENCES, "mode_error", "stray"):
        if name in student:
            lines.append(f"{name:>16}  {student[name]:.4f}")
    shares = " ".join(f"{share:.3f}" for share in student["mode_shares"])
    lines.append(f"{'mode_shares':>16}  {shares}")
    return "\n".join(lines)
