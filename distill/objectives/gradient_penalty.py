"""R1: the discriminator's gradient at noised real images is kept small (Mescheder et al. 2018, eq. 9).

    exact          weight/2 |grad D|^2, with respect to the noised image x_t, or to the features that the heads read (Sauer et al. 2023, ADD)
    approximate    weight/2 ((D(x_t + step eps, t) - D(x_t, t))/step)^2,  eps ~ N(0, I)

E[(eps . grad D)^2] = |grad D|^2, so the approximate one tends to the exact one at the image, in expectation, as step -> 0. It needs no second
derivatives: APT (Lin et al. 2025, eq. 5) weighs the squared difference itself, by what is weight/(2 step^2) here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from distill.types import Features


@dataclasses.dataclass(frozen=True)
class GradientPenalty:
    """R1 on a discriminator's logit; `step` is in the units of x_t."""

    weight: float
    at: Literal["image", "features"] = "image"
    approximate: bool = False
    step: float = 0.1

    def __call__(
        self,
        features: Callable[[Tensor], Features],
        discriminator: Callable[[Features], Tensor],
        x_t: Float[Tensor, "b ..."],
        eps: Float[Tensor, "b ..."],
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The logits of noised real images x_t and their weighted penalties, both with a graph. The directions eps are N(0, I), of neither the
        image nor its noise."""
        if self.approximate:
            logits, squared = self._finite_difference(
                lambda x: discriminator(features(x)).to(x.dtype), x_t, eps
            )
        elif self.at == "image":
            x_t = x_t.detach().requires_grad_(True)
            with sdpa_kernel(SDPBackend.MATH):  # no other attention can be differentiated twice
                logits = discriminator(features(x_t)).to(x_t.dtype)
                squared = squared_gradient(logits, [x_t])
        else:
            seen = {depth: value.requires_grad_(True) for depth, value in features(x_t).items()}
            logits = discriminator(seen).to(x_t.dtype)
            squared = squared_gradient(logits, list(seen.values()))
        return logits, self.weight / 2 * squared

    def _finite_difference(
        self, logit: Callable[[Tensor], Tensor], x_t: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        # The random state is put back after the first, so that both have the same dropout masks: other masks would drown the difference.
        with torch.random.fork_rng([x_t.device] if x_t.is_cuda else []):
            moved = logit(x_t + self.step * eps)
        logits = logit(x_t)
        return logits, ((moved - logits) / self.step).square()


def squared_gradient(
    logits: Float[Tensor, " b"], inputs: Sequence[Float[Tensor, "b ..."]]
) -> Float[Tensor, " b"]:
    """Squared norm, over all inputs together, of each logit's gradient with respect to its own sample, with a graph."""
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    squared = []
    for gradient in gradients:
        at_least_single = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        squared.append(at_least_single.square().flatten(1).sum(1))
    return torch.stack(squared).sum(0)
