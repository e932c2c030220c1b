"""Inception score (Salimans et al. 2016, "Improved techniques for training GANs").

The score is exp of the mean KL(p(y|x) || p(y)). It lies between 1 and the number of classes.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import checked

SPLITS = 10


def inception_score(logits: Float[Tensor, "n k"]) -> dict[str, float]:
    """Return mean and standard deviation, `is` and `is_deviation`, of the scores of 10 consecutive parts."""
    if len(logits) < SPLITS:
        raise UserError(f"{len(logits)} images; expected at least {SPLITS} for an Inception score")
    log_p = checked(logits).log_softmax(1)
    edges = [part * len(logits) // SPLITS for part in range(SPLITS + 1)]
    scores = torch.stack([_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)])
    return {"is": float(scores.mean()), "is_deviation": float(scores.std(correction=0))}


def _score(log_p: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return exp of the mean divergence.

    A class of probability 0 adds nothing, even where the logarithm of its mean probability is infinite.
    """
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_mean), 0.0).sum(1).mean().exp()
