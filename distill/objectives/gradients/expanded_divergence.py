"""(c) The diffusion expansion of an f-divergence: Uni-Instruct.

    D_f(p_0||q_0) - D_f(p_T||q_T) = 1/2 int E_q[h(r) |delta|^2] g^2 dt        (Wang et al. 2025, theorem 3.1)

The exact gradient of E_q[h(r) |delta|^2] at one level is that of

    L = 2 h(r) delta.e + (h - r h')(r) |delta|^2

through x_0, x_t, the inputs of both networks, and r(x_t). Because grad log r = delta, the gradient through r
needs no backward pass through a discriminator:

    L = sg[2h] delta.e                         (sim)
      + sg[h - r h'] |delta|^2                 (fisher)
      - sg[r^2 h'' |delta|^2 delta].x_t        (di)
      + sg[2 r h' (delta.e) delta].x_t         (ratio)
"""

from __future__ import annotations

import dataclasses

from distill.divergences import Divergence
from distill.objectives.gradients.weighting import Weighting, dot, sample_weight, unit
from distill.types import LossOutput, Scores, expand_like


@dataclasses.dataclass(frozen=True)
class Parts:
    """A coefficient for each part of the gradient. With all of them 1 the gradient is exact."""

    sim: float = 1.0
    fisher: float = 1.0
    di: float = 1.0
    ratio: float = 1.0


EXACT_PARTS = Parts()
PUBLISHED_PARTS = Parts(fisher=0.0, ratio=0.0)
"""The parts in the code of Uni-Instruct's authors: another vector field than the gradient."""


def expanded_divergence(
    scores: Scores, divergence: Divergence, parts: Parts = EXACT_PARTS, weighting: Weighting = "dmd"
) -> LossOutput:
    """Return a loss per sample, (b,): with the exact parts, its gradient is that of E_q[h |delta|^2] at level
    t.

    Each sample is multiplied by the weight of `weighting`.
    """
    difference = scores.teacher - scores.fake
    delta = unit(scores, weighting) * difference
    conditional = unit(scores, weighting) * (scores.fake - scores.x0)
    alignment, squared = dot(delta, conditional), dot(delta, delta)

    u = scores.log_ratio.detach()
    h, r_h1, r2_h2 = divergence.h(u), divergence.r_h1(u), divergence.r2_h2(u)
    loss = parts.sim * 2 * h * alignment + parts.fisher * (h - r_h1) * squared
    through_ratio = parts.ratio * 2 * r_h1 * alignment - parts.di * r2_h2 * squared
    # grad log r is the difference of the scores themselves, in whatever units the rest is.
    log_ratio_gradient = (
        scores.alpha / scores.sigma.square() * difference * expand_like(through_ratio, difference)
    ).detach()
    loss = loss + dot(log_ratio_gradient, scores.x_t)
    return LossOutput(sample_weight(scores, weighting) * loss, {"h": h, "score_gap": squared.detach()})
