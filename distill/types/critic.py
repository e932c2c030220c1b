"""Critics of images: discriminators and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from distill.types.condition import Condition


def per_sample(values: Tensor) -> Tensor:
    """Return values (b,) unchanged, and values (b, n) averaged over positions: (b,)."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)


class Critic(nn.Module):
    """A discriminator on another network's features.

    It turns features into a logit, (b,), or one for each of n positions, (b, n). After training the logit is
    about log p_t/q_t.
    """

    reads: str
    """The network whose features it takes: "teacher" or "fake"."""

    @property
    def depths(self) -> Sequence[str]:
        """The depths of the features that it takes."""
        raise NotImplementedError


class Reward(nn.Module):
    """A score of images, (b,), differentiable in the images.

    Images are (b, c, h, w) in [-1, 1] up to overshoot. A reward of text reads `cond.text.prompts`, a reward
    of labels `cond.label`.
    """

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return everything that decides a score, except weights, as plain data.

        That is sizes, preprocessing and tokenizer. Stored scores are found by it.
        """
        return {}
