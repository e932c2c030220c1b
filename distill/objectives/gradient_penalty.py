"""R1, a penalty on the discriminator's gradient at noised real images (Mescheder et al. 2018, eq. 9).

    exact          weight/2 |grad D|^2
    approximate    weight/2 ((D(x_t + step eps, t) - D(x_t, t))/step)^2,  eps ~ N(0, I)

The exact gradient is with respect to the noised image x_t, or to the features that the heads read (Sauer et
al. 2023, ADD). Because E[(eps . grad D)^2] = |grad D|^2, the approximate penalty tends in expectation to the
exact one at the image as step -> 0. It needs no second derivatives. APT (Lin et al. 2025, eq. 5) weights the
squared difference itself; its coefficient is weight/(2 step^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distill.networks.computation.activation_checkpointing import differentiating_twice
from distill.types import Features

HALF_PRECISION_FACTOR = 2.0**10
"""Factor of the logit while it is differentiated in float16, which would round small gradients to zero."""


def gradient_penalty(
    features: Callable[[Tensor], Features],
    discriminator: Callable[[Features], Tensor],
    x_t: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    *,
    weight: float,
    at: Literal["image", "features"] = "image",
    approximate: bool = False,
    step: float = 0.1,
    recompute: bool = False,
    one_pass: bool = False,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the logits of noised real images x_t and their weighted penalties, both with a graph.

    The directions eps are N(0, I), independent of the images and of their noise. `step` is in the units of
    x_t. `recompute` lets the exact penalty at the image keep less for its derivatives. Compiled networks run
    uncompiled in it, since they cannot be differentiated twice. With `one_pass` the approximate penalty calls
    `features` with both ends of the difference as one batch, which must draw no dropout masks.
    """
    if approximate:

        def logit(x: Tensor) -> Tensor:
            return discriminator(features(x)).to(x.dtype)

        logits, squared = _finite_difference(logit, x_t, eps, step, one_pass)
    elif at == "image":
        x_t = x_t.detach().requires_grad_(True)
        with differentiating_twice(recompute):
            logits = discriminator(features(x_t)).to(x_t.dtype)
            squared = squared_gradient(logits, [x_t])
    else:
        inputs = {depth: value.requires_grad_(True) for depth, value in features(x_t).items()}
        logits = discriminator(inputs).to(x_t.dtype)
        squared = squared_gradient(logits, list(inputs.values()))
    return logits, weight / 2 * squared


def _finite_difference(
    logit: Callable[[Tensor], Tensor], x_t: Tensor, eps: Tensor, step: float, one_pass: bool
) -> tuple[Tensor, Tensor]:
    moved_x_t = x_t + step * eps
    if one_pass:
        logits, moved = logit(torch.cat([x_t, moved_x_t])).chunk(2)
    else:
        # The random state is restored after the first pass, so that both passes have the same dropout masks:
        # the change of the masks would otherwise outweigh that of the image.
        with torch.random.fork_rng([x_t.device] if x_t.is_cuda else []):
            moved = logit(moved_x_t)
        logits = logit(x_t)
    return logits, ((moved - logits) / step).square()


def _in_float16(device: torch.device) -> bool:
    if not torch.amp.is_autocast_available(device.type):  # as on the meta device of a dry run
        return False
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16


def squared_gradient(
    logits: Float[Tensor, " b"], inputs: Sequence[Float[Tensor, "b ..."]]
) -> Float[Tensor, " b"]:
    """Return the squared norm of each logit's gradient with respect to its own sample, (b,), with a graph.

    The norm is over all inputs together.
    """
    factor = HALF_PRECISION_FACTOR if _in_float16(logits.device) else 1.0
    gradients = torch.autograd.grad(factor * logits.sum(), inputs, create_graph=True)
    squared = []
    for gradient in gradients:
        float32_or_wider = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        squared.append((float32_or_wider / factor).square().flatten(1).sum(1))
    return torch.stack(squared).sum(0)
