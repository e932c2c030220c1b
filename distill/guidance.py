"""Classifier-free guidance (Ho and Salimans 2022) of the networks that a student is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.types import Condition, Denoiser, Features


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Scales; 1 is no guidance. SiD-LSG (Zhou et al. 2024) calls them kappa_4, kappa_2 = kappa_3, and kappa_1."""

    teacher: float = 1.0
    fake: float = 1.0
    fake_training: float = 1.0


def guided(
    network: Denoiser, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Condition, scale: float, depths: Sequence[str] = ()
) -> tuple[Float[Tensor, "b ..."], Features]:
    """D(no condition) + scale (D(cond) - D(no condition)) in one pass of twice the batch, and the features under the condition.

    Raises ValueError for a scale other than 1 without a condition.
    """
    if scale == 1:
        return network(x_t, t, cond, depths) if depths else (network(x_t, t, cond), {})
    both = (torch.cat([x_t, x_t]), torch.cat([t, t]), cond.and_none())
    x0, features = network(*both, depths) if depths else (network(*both), {})
    conditional, unconditional = x0.chunk(2)
    return torch.lerp(unconditional, conditional, scale), {depth: value.chunk(2)[0] for depth, value in features.items()}
