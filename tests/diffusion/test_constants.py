"""Constants of a forward pass are copied to a device once."""

from __future__ import annotations

import torch

from distill.diffusion.constants import constant


def test_a_constant_is_made_once_for_each_type() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    found = constant((1.0, 0.1), like)
    assert constant((1.0, 0.1), like) is found
    assert found.tolist() == [1.0, 0.1]
    assert constant((1.0, 0.1), like.float()).dtype == torch.float32


def test_a_constant_made_in_inference_can_be_differentiated_through() -> None:
    with torch.inference_mode():
        factor = constant((0.123, 2.0), torch.zeros(1))
    x = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad((x * factor).sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.123, 2.0]))
