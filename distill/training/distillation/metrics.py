"""Metrics of an update, over micro-batches: means of losses, and the sizes of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.training.distillation.losses import Losses, Metrics
from distill.training.logging import as_root


def gradient_sizes(losses: Losses, x0: Tensor, share: float) -> Metrics:
    """Return the norm of the gradient of each loss with respect to the student's samples of the whole batch.

    `share` is the part of the whole batch that a micro-batch x0 is. The squares that are returned average
    over micro-batches and processes to that of the norm, whose root is taken when it is logged. Losses that
    do not depend on the samples are left out.
    """
    sizes: Metrics = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(loss, x0, retain_graph=True, allow_unused=True)
        if gradient is not None:
            # The loss of the batch is a mean of its micro-batches' losses, weighted by their shares, and has
            # `share` times this gradient here. The mean weights the square by `share` once already.
            sizes |= as_root(f"gradient_at_sample/{name}", share * gradient.double().square().sum())
    return sizes


def add_metrics(metrics: Metrics, losses: Losses, extra: Metrics, share: float) -> None:
    """Add a micro-batch's share of losses and metrics to the means."""
    detached = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    for name, value in {**detached, **extra}.items():
        shared = value if share == 1 else share * value
        metrics[name] = metrics[name] + shared if name in metrics else shared
