"""(a) Distribution matching: Diff-Instruct, DMD, DMD2, f-distill.

The gradient of an f-divergence at one noise level (f-distill, Xu et al. 2025, theorem 1) is

    grad D_f(p_t||q_t) = -E[h(r) delta . dx_t/dtheta],  delta = s_p - s_q

No gradient flows through either network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.objectives.weighting import Weighting, descent

if TYPE_CHECKING:
    from distill.divergences import Divergence
    from distill.types import LossOutput, Scores


def distribution_matching(scores: Scores, divergence: Divergence, weighting: Weighting = "dmd") -> LossOutput:
    """Return a loss per sample, (b,).

    With `score` as the weighting its gradient is that of D_f at level t, in nats. With `prediction` the
    gradient with respect to x_0 is -h (teacher - fake). `dmd` divides it by mean|x_0 - teacher|, which for
    reverse KL is DMD's gradient.
    """
    from distill.types import LossOutput

    difference = (scores.teacher - scores.fake).detach()
    h = divergence.h(scores.log_ratio.detach())
    return LossOutput(
        h * descent(scores, difference, weighting),
        {"h": h, "prediction_gap": difference.square().flatten(1).mean(1)},
    )
