"""Kernels with the interface of bitsandbytes' 8-bit optimisers, in torch operations."""

from __future__ import annotations

import math
import sys
import types

import pytest
import torch
from torch import Tensor

BLOCK = 256


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import bitsandbytes` find these kernels."""
    package, functional = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.functional")
    for function in (create_dynamic_map, optimizer_update_32bit, optimizer_update_8bit_blockwise):
        setattr(functional, function.__name__, function)
    package.functional = functional  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)


def create_dynamic_map(signed: bool = True) -> Tensor:
    """Return 256 numbers in [-1, 1] or [0, 1], denser near zero."""
    return torch.linspace(-1, 1, 256).pow(3) if signed else torch.linspace(0, 1, 256).pow(4)


def optimizer_update_32bit(
    optimizer_name: str,
    g: Tensor,
    p: Tensor,
    state1: Tensor,
    beta1: float,
    eps: float,
    step: int,
    lr: float,
    state2: Tensor,
    beta2: float,
    beta3: float,
    alpha: float,
    weight_decay: float,
) -> None:
    """Make an update of AdamW."""
    assert optimizer_name == "adam"
    state1.lerp_(g, 1 - beta1)
    state2.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.mul_(1 - lr * weight_decay)
    correction = math.sqrt(1 - beta2**step)
    p.addcdiv_(state1, state2.sqrt() / correction + eps, value=-lr / (1 - beta1**step))


def optimizer_update_8bit_blockwise(
    optimizer_name: str,
    g: Tensor,
    p: Tensor,
    state1: Tensor,
    state2: Tensor,
    beta1: float,
    beta2: float,
    beta3: float,
    alpha: float,
    eps: float,
    step: int,
    lr: float,
    qmap1: Tensor,
    qmap2: Tensor,
    absmax1: Tensor,
    absmax2: Tensor,
    weight_decay: float,
) -> None:
    """Make an update of AdamW whose running means are codes of the maps, with a scale for each block."""
    first, second = _decode(state1, qmap1, absmax1), _decode(state2, qmap2, absmax2)
    optimizer_update_32bit(
        optimizer_name, g, p, first, beta1, eps, step, lr, second, beta2, beta3, alpha, weight_decay
    )
    _encode(first, state1, qmap1, absmax1)
    _encode(second, state2, qmap2, absmax2)


def _decode(codes: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
    return numbers[codes.long()] * scales.repeat_interleave(BLOCK)[: codes.numel()]


def _encode(values: Tensor, codes: Tensor, numbers: Tensor, scales: Tensor) -> None:
    for block, part in enumerate(values.split(BLOCK)):
        scales[block] = part.abs().max()
        relative = part / scales[block].clamp(min=1e-30)
        nearest = (relative[:, None] - numbers).abs().argmin(1)
        codes[block * BLOCK : block * BLOCK + len(part)] = nearest.to(torch.uint8)
