"""Self-attention of our own networks takes fused kernels, with the derivatives of its formula."""

from __future__ import annotations

import unittest.mock
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from distill.networks.edm.layers import split_heads
from distill.networks.layers import attend
from tests.helpers.small_networks import NETWORKS, inputs, small_network


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_chooses_a_fused_kernel(name: str, memory_format: torch.memory_format) -> None:
    network = small_network(name).to(memory_format=memory_format)
    choices: list[int] = []

    def observed(q: Tensor, k: Tensor, v: Tensor, compute: Any = F.scaled_dot_product_attention) -> Tensor:
        choices.append(torch._fused_sdp_choice(q, k, v))
        return compute(q, k, v)

    with unittest.mock.patch.object(F, "scaled_dot_product_attention", observed):
        network(*inputs(network))
    assert len(choices) >= 2
    assert set(choices) == {SDPBackend.FLASH_ATTENTION.value}


def written_out(qkv: Tensor, heads: int) -> Tensor:
    """Compute softmax(q k / sqrt(d)) v from channels ordered by head, channel, and then q, k, v."""
    b, c, h, w = qkv.shape
    q, k, v = qkv.reshape(b, heads, c // heads // 3, 3, h * w).unbind(3)
    weights = torch.einsum("bhdn,bhdm->bhnm", q, k).div(q.shape[2] ** 0.5).softmax(-1)
    return torch.einsum("bhnm,bhdm->bhdn", weights, v).reshape(b, c // 3, h, w)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_and_its_first_and_second_derivatives_are_those_of_the_formula(
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 24, 3, 4, dtype=torch.float64).to(memory_format=memory_format).requires_grad_(True)
    x = torch.empty(2, 8, 3, 4, dtype=torch.float64).to(memory_format=memory_format)
    with sdpa_kernel(SDPBackend.MATH):
        found = attend(split_heads(qkv, 2), x)
        values = [found, *derivatives(found, qkv)]
    expected = written_out(qkv, 2)
    torch.testing.assert_close(values, [expected, *derivatives(expected, qkv)])
    assert found.is_contiguous(memory_format=memory_format)


def derivatives(output: Tensor, qkv: Tensor) -> list[Tensor]:
    """Return the gradient of a weighted sum, and the gradient of its squared norm."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    (first,) = torch.autograd.grad((output * weights).sum(), qkv, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), qkv)
    return [first, second]
