"""Classifier-free guidance (Ho and Salimans 2022) of teacher and fake score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.types import Condition, Critic, Denoiser, Features, Prediction


def check_guidance(teacher: Denoiser, scale: float, setting: str = "guidance") -> None:
    """Refuse a scale other than 1 for a teacher that cannot be guided; `setting` is the scale's name."""
    if scale == 1:
        return
    if not (teacher.label_count or teacher.takes_text):
        raise UserError(f"{setting}: is {scale:g}, and the teacher has no condition; expected 1")
    teacher.require_unconditional()


def guided(
    network: Denoiser,
    x_t: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    cond: Condition,
    scale: float,
    critic: Critic | None = None,
    with_both_sides: bool = False,
) -> Prediction:
    """Predict x_0 as D(no condition) + scale (D(condition) - D(no condition)), in the precision of x_t.

    A scale of 1 is D(condition), and one of 0 is D(no condition), in one forward pass of the batch. Any other
    scale takes one pass of twice the batch, and so does `with_both_sides`, which returns both predictions
    whatever the scale. `critic` turns the features under the condition into logits in the same pass; with it
    a scale of 0 takes twice the batch too. Raises ValueError if both sides are needed and the batch has no
    condition.
    """
    depths = () if critic is None else critic.depths
    if scale == 0 and critic is None and not with_both_sides:
        x0, _ = _predict(network, x_t, t, cond.as_unconditional(), ())
        return Prediction(x0.to(x_t.dtype))
    if scale == 1 and not with_both_sides:
        x0, features = _predict(network, x_t, t, cond, depths)
        return Prediction(x0.to(x_t.dtype), _logits(critic, features, x_t.dtype))
    both = _predict(network, torch.cat([x_t, x_t]), torch.cat([t, t]), cond.with_unconditional(), depths)
    conditional, unconditional = both[0].chunk(2)
    # lerp with a weight of 1 is not the conditional prediction to the bit in every precision
    x0 = conditional if scale == 1 else torch.lerp(unconditional, conditional, scale)
    features = {depth: value.chunk(2)[0] for depth, value in both[1].items()}
    return Prediction(
        x0.to(x_t.dtype),
        _logits(critic, features, x_t.dtype),
        conditional.detach().to(x_t.dtype),
        unconditional.detach().to(x_t.dtype),
    )


def _predict(
    network: Denoiser, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
) -> tuple[Tensor, Features]:
    return network(x_t, t, cond, depths) if depths else (network(x_t, t, cond), {})


def _logits(critic: Critic | None, features: Features, dtype: torch.dtype) -> Tensor | None:
    return None if critic is None else critic(features).to(dtype)
