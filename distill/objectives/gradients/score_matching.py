"""(b) Score matching, the gradient of a distance of the scores: SIM, SiD, SiDA, Diff-Instruct*.

    D = E[w rho(delta)],  loss w rho'(delta) . (e + (1 - alpha) delta),  e = s_q - grad log q(x_t|x_0)

The score-projection identity replaces the intractable derivative of the student's score with the conditional
score in e. The gradient flows through x_0, x_t and the inputs of both networks. alpha = 1 is SIM (Luo et al.
2024); SiD (Zhou et al. 2024) found 1.2 best; alpha = 1/2 with the squared distance gives the exact gradient
of E|delta|^2. With real data (RealUID, `real_data.py`) the fake score learns the student's images and the
data's together.
"""

from __future__ import annotations

from typing import get_args

import torch

from distill.objectives.choices import Distance
from distill.objectives.gradients.real_data import real_data_loss
from distill.objectives.gradients.weighting import Weighting, dot, sample_weight, unit
from distill.objectives.real_data import RealData
from distill.types import LossOutput, Scores


def score_matching(
    scores: Scores,
    distance: Distance = "l2",
    alpha: float = 1.0,
    c: float = 0.01,
    weighting: Weighting = "dmd",
    real_data: RealData | None = None,
) -> LossOutput:
    """Return a loss per sample, (b,). SiD's published loss is half of this one with `l2`.

    `c` is the constant of the pseudo-Huber distance, in the units of the weighting (by default those of x_0).
    `real_data` goes with `l2`.
    """
    delta = unit(scores, weighting) * (scores.teacher - scores.fake)
    conditional = unit(scores, weighting) * (scores.fake - scores.x0)
    squared = dot(delta, delta)
    alignment = dot(delta, conditional) + (1 - alpha) * squared
    if distance == "l2":
        loss = 2 * alignment
    elif distance == "pseudo_huber":
        loss = alignment / torch.sqrt(squared + c**2)
    else:
        raise ValueError(f"distance '{distance}': expected one of {', '.join(get_args(Distance))}")
    if real_data is not None:
        excess = real_data_loss(scores, real_data.alpha, real_data.beta, real_data.target)
        loss = real_data.alpha * loss + unit(scores, weighting).square().flatten() * excess
    return LossOutput(sample_weight(scores, weighting) * loss, {"score_gap": squared.detach()})
