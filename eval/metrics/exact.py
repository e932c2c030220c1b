"""The laboratory's measurements: a student of vectors against a Gaussian mixture, exactly where the mathematics allows."""

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
"""Noise-to-signal ratio at which divergences are compared: a student's samples may lie on a curve, whose density without noise is infinite."""
DIVERGENCES = ("reverse_kl", "forward_kl", "jensen_shannon")
FAR = 30.0
"""Largest log-ratio of densities."""
STRAY = 4.0
"""A sample further than this many standard deviations from every component belongs to none."""


def mode_shares(
    teacher: GaussianMixture, samples: Float[Tensor, "n d"], cond: Condition | None = None
) -> Float[Tensor, " k"]:
    """Share of the samples that each component is most responsible for."""
    t = teacher.schedule.t(samples.new_full((len(samples),), 1e-3))
    alpha = teacher.schedule.alpha(t)[:, None]
    nearest = teacher.responsibilities(alpha * samples, t, cond or Condition()).argmax(1)
    return torch.bincount(nearest, minlength=len(teacher.means)) / len(samples)


def stray_share(teacher: GaussianMixture, samples: Float[Tensor, "n d"]) -> float:
    """Share of the samples further than `STRAY` standard deviations from every component."""
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
    """D_f(p_t||q_t) of each name at sigma/alpha = `level`, by the trapezoid rule on [-reach, reach]^d, d at most 2; unconditional, in float64.

    The log-ratio is clamped to +-`FAR`, so a student far from its teacher has that many nats of either KL. The student's mass off the grid
    counts; the teacher has none there.
    """
    dimension = teacher.image_shape[0]
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    cell = (2 * reach / (points - 1)) ** dimension
    nodes = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    totals, outside = dict.fromkeys(names, 0.0), 1.0
    for x in nodes.split(256):
        t = teacher.schedule.t(x.new_full((len(x),), level))
        alpha = teacher.schedule.alpha(t)
        log_p, log_q = (
            one.log_density(alpha[:, None] * x, t, Condition()) + dimension * alpha.log()
            for one in (teacher, student)
        )  # of x_t/alpha, whose nodes these are
        log_ratio = (log_p - log_q).clamp(-FAR, FAR)
        log_mass = torch.where(
            log_ratio > 0, log_p - log_ratio, log_q
        )  # log q, but for a q that vanishes where there is p
        for name in names:
            totals[name] += float((cell * log_mass.exp() * parse(name).f(log_ratio)).sum())
        outside -= float(cell * log_q.exp().sum())
    off_grid = log_ratio.new_tensor(-FAR)
    return {
        name: total + max(outside, 0.0) * float(parse(name).f(off_grid)) for name, total in totals.items()
    }


class LaboratoryMonitor:
    """Samples (n, d) -> `mode_error`, half the sum of |share - weight| over the components, and `stray`, to be followed during training."""

    def __init__(self, teacher: GaussianMixture) -> None:
        self.teacher = teacher

    def __call__(self, samples: Float[Tensor, "n d"]) -> dict[str, float]:
        error = (mode_shares(self.teacher, samples) - self.teacher.log_weights.exp()).abs().sum() / 2
        return {"mode_error": error.item(), "stray": stray_share(self.teacher, samples)}


@torch.no_grad()
def evaluate_vectors(
    teacher: GaussianMixture, generator: Generator, samples: Float[Tensor, "n d"]
) -> dict[str, Any]:
    """Divergences of a student of one step from its teacher at sigma/alpha = `LEVEL`, in nats, and the shares of a student's samples in the
    teacher's components."""
    teacher, generator, samples = teacher.double(), generator.double(), samples.double()
    exact = generator.evaluations == 1
    return {
        **(
            divergences_to_teacher(DIVERGENCES, teacher, marginal(generator, teacher.schedule, points=128))
            if exact
            else {}
        ),
        **LaboratoryMonitor(teacher)(samples),
        "mode_shares": mode_shares(teacher, samples).tolist(),
    }


def render(results: dict[str, Any]) -> str:
    """The results as lines of text."""
    student = results["student"]
    known = (
        f"in nats at sigma/alpha = {LEVEL}"
        if DIVERGENCES[0] in student
        else "are known of students of one step alone"
    )
    lines = [f"laboratory: {results['n']} samples; divergences {known}"]
    lines += [
        f"{name:>16}  {student[name]:.4f}"
        for name in (*DIVERGENCES, "mode_error", "stray")
        if name in student
    ]
    return "\n".join(
        [*lines, f"{'mode_shares':>16}  {' '.join(f'{share:.3f}' for share in student['mode_shares'])}"]
    )
