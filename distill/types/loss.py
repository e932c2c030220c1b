"""Inputs and outputs of objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Scores:
    """Everything that an objective may read, for a batch of student samples x0 with noise of level t."""

    x0: Float[Tensor, "b ..."]
    x_t: Float[Tensor, "b ..."]
    alpha: Float[Tensor, "b ..."]
    """(b, 1, ...), broadcasts against x0."""
    sigma: Float[Tensor, "b ..."]
    """(b, 1, ...), broadcasts against x0."""
    teacher: Float[Tensor, "b ..."]
    """The teacher's prediction of x_0 at x_t."""
    fake: Float[Tensor, "b ..."]
    """The fake score's prediction of x_0 at x_t."""
    log_ratio: Float[Tensor, " b"]
    """log p_t/q_t at x_t; zero if the objective needs none."""


@dataclasses.dataclass(frozen=True)
class LossOutput:
    """A loss per sample, and detached tensors whose means are logged."""

    loss: Float[Tensor, " b"]
    metrics: dict[str, Tensor] = dataclasses.field(default_factory=dict)


Objective = Callable[[Scores], LossOutput]
Penalty = Callable[..., tuple[Tensor, Tensor]]
"""A gradient penalty: from features, discriminator, x_t and directions to logits and penalties, (b,) each."""
