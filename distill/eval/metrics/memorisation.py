"""Memorisation: the share of generated images nearer to a training image than to any held-out image.

For a generator that memorises nothing, training and held-out images are exchangeable. The expected share is
then n_train / (n_train + n_held_out), and its spread over all ways to divide the real images into these two
sets is known exactly. Reducing the training images to as many as are held out would move the expectation to
1/2, but an exact copy would then be noticed only if its original was kept: one time in four for a split of 80
to 20.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from distill.eval.features import checked
from distill.eval.metrics.neighbours import nearest


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """`share` is the share of generated images that are nearer to the training images.

    `expected` and `deviation` are the mean and the standard deviation of that share when the same real images
    are divided at random.
    """

    share: float
    expected: float
    deviation: float


def memorisation(
    generated: Float[Tensor, "n _"], train: Float[Tensor, "a _"], held_out: Float[Tensor, "b _"]
) -> Memorisation:
    """Compare each generated image's distances to the two nearest real images; a tie is not nearer."""
    generated, train, held_out = checked(generated), checked(train), checked(held_out)
    train_index, train_distance = nearest(generated, train)
    held_out_index, held_out_distance = nearest(generated, held_out)
    nearer = train_distance < held_out_distance
    # A division of the N real images draws a of them: the share is then the sum of a weights drawn without
    # replacement, where the weight of a real image is the share of generated images that have it as their
    # nearest, and the weights sum to 1.
    real = len(train) + len(held_out)
    nearest_real = torch.where(nearer, train_index, len(train) + held_out_index)
    weights = nearest_real.bincount(minlength=real).double() / len(generated)
    variance = weights.var() * len(train) * len(held_out) / real
    return Memorisation(float(nearer.double().mean()), len(train) / real, float(variance.sqrt()))
