"""Real data in score matching without a discriminator: RealUID (Kornilov et al. 2025, arXiv:2509.22459).

Student and fake score f play the game min_student max_f of

    E_q[alpha (|p' - (beta/alpha) x_0'|^2 - |f' - (beta/alpha) x_0'|^2)]
    + E_data[(1 - alpha) (|p' - (1-beta)/(1-alpha) x_0'|^2 - |f' - (1-beta)/(1-alpha) x_0'|^2)]

p and f are the predictions of x_0 by teacher and fake score at x_t. A prime is the deviation from the
prediction of a network whose output is zero (`deviation`), in which every training target of a network is
linear. Multiplying out, without constants, leaves the usual losses times alpha and 1 - alpha, and a product
of prediction and target times alpha - beta (docs/mathematics.md, section 17).
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.diffusion.prediction import to_x0
from distill.diffusion.prediction_types import PredictionType
from distill.objectives.gradients.weighting import dot
from distill.types import Scores


def deviation(target: PredictionType, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return x_0 minus what a network of this training target predicts by an output of zero, (b, ...)."""
    return x0 - to_x0(target, torch.zeros_like(x_t), x_t, alpha, sigma)


def real_data_loss(scores: Scores, alpha: float, beta: float, target: PredictionType) -> Tensor:
    """Return the student's loss 2 (alpha - beta) (p - f) . x_0' per sample, (b,).

    It is added to alpha times the loss of score matching, in the units of predictions.
    """
    x0 = deviation(target, scores.x0, scores.x_t, scores.alpha, scores.sigma)
    return 2 * (alpha - beta) * dot(scores.teacher - scores.fake, x0)


def denoising_loss(prediction: Tensor, x0: Tensor, origin: Tensor, share: float, excess: float) -> Tensor:
    """Return the fake score's loss of each element, (b, ...): share (f - x_0)^2 + 2 excess f' x_0'.

    `origin` is the prediction by an output of zero. On student samples the share is alpha and the excess is
    alpha - beta; on real images they are 1 - alpha and beta - alpha.
    """
    return share * (prediction - x0).square() + 2 * excess * (prediction - origin) * (x0 - origin)
