"""The size of the gradient at the samples is that of the whole batch, whatever its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.training.distillation.metrics import add_metrics, gradient_sizes
from distill.training.logging import with_roots


def mean_loss(x0: Tensor) -> Tensor:
    return x0.pow(3).sum(1).mean()


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)])
def test_a_gradient_size_is_the_norm_over_the_whole_batch(sizes: tuple[int, ...]) -> None:
    whole = torch.arange(1.0, 16.0).reshape(5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(mean_loss(whole), whole)
    metrics: dict[str, Tensor] = {}
    for part in whole.detach().split(list(sizes)):
        x0 = part.requires_grad_()
        share = len(x0) / len(whole)
        losses = {
            "gan": mean_loss(x0),
            "constant": torch.ones(()),
            "other": torch.ones(3, requires_grad=True).sum(),
        }
        add_metrics(metrics, {}, gradient_sizes(losses, x0, share), share)
    found = with_roots({name: value.item() for name, value in metrics.items()})
    assert found == {"gradient_at_sample/gan": pytest.approx(gradient.norm().item())}
