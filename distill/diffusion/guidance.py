"""Classifier-free guidance (Ho and Salimans 2022) of the networks that a student is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

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


class CFGPrediction(NamedTuple):
    """A network's two predictions of x_0 at x_t, (b, ...) each: under the condition, and without one."""

    conditional: Float[Tensor, "b ..."]
    unconditional: Float[Tensor, "b ..."]


class Guided(NamedTuple):
    """A guided prediction of x_0, (b, ...), the features under the condition, and what it was made of, where both sides were looked at."""

    x0: Float[Tensor, "b ..."]
    features: Features
    sides: CFGPrediction | None


def guided(
    network: Denoiser,
    x_t: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    cond: Condition,
    scale: float,
    depths: Sequence[str] = (),
    both_sides: bool = False,
) -> Guided:
    """D(no condition) + scale (D(cond) - D(no condition)) in one pass of twice the batch; with a scale of 1, D(cond) in one pass of the batch.

    `both_sides` looks at both whatever the scale is. Raises ValueError where both are to be looked at and there is no condition.
    """
    if scale == 1 and not both_sides:
        x0, features = network(x_t, t, cond, depths) if depths else (network(x_t, t, cond), {})
        return Guided(x0, features, None)
    twice = (torch.cat([x_t, x_t]), torch.cat([t, t]), cond.with_unconditional())
    x0, features = network(*twice, depths) if depths else (network(*twice), {})
    sides = CFGPrediction(*x0.chunk(2))
    # lerp with 1 is not exactly the conditional one in every precision
    mixed = sides.conditional if scale == 1 else torch.lerp(sides.unconditional, sides.conditional, scale)
    return Guided(mixed, {depth: value.chunk(2)[0] for depth, value in features.items()}, sides)
