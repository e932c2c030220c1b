"""The scale of the loss for `precision: fp16`, whose small gradients would be rounded to zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIRST = 2.0**16
SMALLEST = 2.0**-20
"""A scale below this is no longer an overflow that a lower scale mends."""
GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000


class LossScale(nn.Module):
    """Multiplies the losses of one backward pass, and adapts the factor as `torch.amp.GradScaler` does.

    An update whose gradient is not finite is skipped, and the scale is halved; after 2000 updates without one
    it is doubled. Nothing is read from the device, and checkpoints hold the buffers. Call the scale with a
    loss, give it to the update of each network that the loss trains, then call `update` once.
    """

    scale: Tensor
    growth: Tensor
    skipped: Tensor
    found: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(FIRST))
        self.register_buffer("growth", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("skipped", torch.tensor(0.0))
        self.register_buffer("found", torch.tensor(0.0), persistent=False)

    def forward(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate."""
        return loss * self.scale

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        torch._foreach_mul_(gradients, self.scale.reciprocal())

    def note(self, is_skipped: Tensor) -> None:
        """Record whether an update was skipped: 1, or 0."""
        torch.maximum(self.found, is_skipped, out=self.found)

    @staticmethod
    def norm_made(norm: Tensor) -> Tensor:
        """Return the norm of the gradient for the log: 0 for an update that is skipped."""
        return norm.where(norm.isfinite(), 0.0)

    @torch.no_grad()
    def update(self) -> Tensor:
        """Adapt the scale after the updates; returns whether it fell so low that training cannot go on."""
        self.skipped += self.found
        torch._amp_update_scale_(self.scale, self.growth, self.found, GROWTH, BACKOFF, INTERVAL)
        self.found.zero_()
        return self.scale < SMALLEST

    def metrics(self, name: str) -> dict[str, Tensor]:
        """Return the scale, and the number of steps of the run with a skipped update."""
        return {
            f"loss_scale/{name}": self.scale.clone(),
            f"loss_scale/{name}_skipped": self.skipped.clone(),
        }
