"""(a) The divergence at one noise level: Diff-Instruct, DMD, DMD2, f-distill.

    grad D_f(p_t||q_t) = -E[h(r) delta . dx_t/dtheta],  delta = s_p - s_q    (f-distill, Xu et al. 2025, theorem 1)

Neither network is differentiated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.divergences import Divergence
from distill.objectives.weighting import Weighting, descent

if TYPE_CHECKING:
    from distill.types import LossOutput, Scores


def distribution_matching(scores: Scores, divergence: Divergence, weighting: Weighting = "dmd") -> LossOutput:
    """Loss per sample, (b,), whose gradient is that of D_f at level t, in nats, with weighting `score`.

    With `prediction` the gradient with respect to x_0 is -h (teacher - fake), and with `dmd` that over mean|x_0 - teacher|, which for reverse
    KL is DMD's.
    """
    from distill.types import LossOutput

    difference = (scores.teacher - scores.fake).detach()
    h = divergence.h(scores.log_ratio.detach())
    return LossOutput(
        h * descent(scores, difference, weighting),
        {"h": h, "prediction_gap": difference.square().flatten(1).mean(1)},
    )
