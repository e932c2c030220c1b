"""Inception score (Salimans et al. 2016, "Improved techniques for training GANs"): exp of the mean KL(p(y|x) || p(y)), in [1, classes]."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from eval.features import checked

SPLITS = 10


def inception_score(logits: Float[Tensor, "n k"]) -> dict[str, float]:
    """`is` and `is_deviation`: mean and standard deviation over 10 parts, in the order of the images. Raises UserError below 10 images."""
    if len(logits) < SPLITS:
        raise UserError(f"{len(logits)} images; expected at least {SPLITS} for an Inception score")
    log_p = checked(logits).log_softmax(1)
    edges = [part * len(logits) // SPLITS for part in range(SPLITS + 1)]
    scores = torch.stack([_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)])
    return {"is": float(scores.mean()), "is_deviation": float(scores.std(correction=0))}


def _score(log_p: Tensor) -> Tensor:
    """exp of the mean divergence; a class of probability 0 adds nothing, however small the mean of its probabilities is."""
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_mean), 0.0).sum(1).mean().exp()
