"""Diversity within a condition: how much images of the same prompt, or of the same label, differ.

It is the variance of the features within a condition as a share of the variance of all real training
images, both summed over dimensions and unbiased: near 0 if a condition always gives the same image, 1 if the
images of one condition differ as much as any real images.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.eval.features import checked


def within_variance(features: Float[Tensor, "n d"], conditions: Int64[Tensor, " n"]) -> float | None:
    """Return the unbiased variance around the conditions' means, or None if no condition has two images."""
    features = checked(features).double()
    _, places, counts = conditions.unique(return_inverse=True, return_counts=True)
    freedom = int((counts - 1).sum())
    if freedom == 0:
        return None
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, places, features)
    means = sums / counts[:, None]
    return float((features - means[places]).square().sum()) / freedom


def diversity(
    generated: Float[Tensor, "n d"], conditions: Int64[Tensor, " n"], train: Float[Tensor, "m d"]
) -> float | None:
    """Return the variance within a condition as a share of the training images' variance.

    None if no condition has two images.
    """
    within = within_variance(generated, conditions)
    whole = within_variance(train, torch.zeros(len(train), dtype=torch.int64))
    if within is None or not whole:
        return None
    return within / whole
