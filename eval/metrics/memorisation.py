"""Memorisation: are generated images nearer to the images that were trained on than to images of the same source that were held out?

The measure is the share whose nearest training image is nearer than the nearest held-out one, over all images of both. For a generator that
memorises nothing the two are exchangeable, so the share to expect is n_train / (n_train + n_held_out), and its spread over all ways to divide
the real images into these two sets is known exactly. Thinning the training images to as many as are held out would move the expectation
to 1/2, but an exact copy would then be noticed only where its original was kept, one time in four for a split of 80 to 20.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from eval.features import checked
from eval.metrics.neighbours import nearest


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """`share` of generated images nearer to the training images; `expected` and `deviation`, the mean and the standard deviation of that
    share when the same real images are divided at random."""

    share: float
    expected: float
    deviation: float


def memorisation(
    generated: Float[Tensor, "n _"], train: Float[Tensor, "a _"], held_out: Float[Tensor, "b _"]
) -> Memorisation:
    """Compare distances to the nearest image; a tie is not nearer. Raises UserError where a feature is not finite or the dimensions differ."""
    generated, train, held_out = checked(generated), checked(train), checked(held_out)
    train_index, train_distance = nearest(generated, train)
    held_out_index, held_out_distance = nearest(generated, held_out)
    nearer = train_distance < held_out_distance
    # A division of the N real images draws a of them: the share is then the sum of a weights drawn without replacement, where the weight of
    # a real image is the share of generated images that have it as their nearest, and the weights sum to 1.
    real = len(train) + len(held_out)
    weights = torch.where(nearer, train_index, len(train) + held_out_index).bincount(
        minlength=real
    ).double() / len(generated)
    variance = weights.var() * len(train) * len(held_out) / real
    return Memorisation(float(nearer.double().mean()), len(train) / real, float(variance.sqrt()))
