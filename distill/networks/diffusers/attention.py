"""Attention of networks of diffusers by PyTorch's choice of kernels, by xformers, or by FlashAttention."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from distill.config.errors import UserError

Backend = Literal["sdpa", "xformers", "flash"]
Attend = Callable[..., Tensor]
"""A function with the arguments and the result of `scaled_dot_product_attention`."""
HALF_PRECISION = (torch.float16, torch.bfloat16)
"""Types that FlashAttention computes in."""
ALIGNMENT = 8
"""Rows of a bias for xformers start at multiples of this many elements, in half precision."""


def open_backend(backend: Backend) -> Attend | None:
    """Return the function that computes attention, or None for PyTorch's own choice."""
    if backend == "sdpa":
        return None
    attend: Attend = attend_by_flash
    if backend == "xformers":
        try:
            from xformers.ops import memory_efficient_attention
        except ImportError as error:
            raise UserError(
                "teacher.attention: xformers is not installed; expected it from pip install '.[xformers]'"
            ) from error
        attend = functools.partial(attend_by_xformers, memory_efficient_attention)
    if not torch.cuda.is_available():
        raise UserError(f"teacher.attention: {backend} needs a CUDA device; expected sdpa")
    if backend == "flash" and torch.cuda.get_device_capability() < (8, 0):
        raise UserError(
            "teacher.attention: flash needs a CUDA device of compute capability 8.0 or more; "
            "expected sdpa or xformers"
        )
    return attend


def route_attention(network: nn.Module, attend: Attend | None) -> None:
    """Have the attention of a network, and of copies of it, computed by `attend`; None changes nothing.

    Each layer's processor is replaced by one of a subclass that sends its calls of PyTorch's attention to
    `attend`. The rest of the processor stays the same: projections, norms of queries and keys, positions,
    masks. So does attention of other kinds, such as linear attention.
    """
    if attend is None:
        return
    for layer in _attention_layers(network):
        kind: Any = type(layer.processor)
        layer.set_processor(_rerouted_processor(kind, attend)())


def _attention_layers(network: nn.Module) -> list[Any]:
    """Return the layers of diffusers whose attention is computed by an exchangeable processor."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "processor") and hasattr(module, "set_processor")
    ]


def attend_by_xformers(
    compute: Attend,
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads m d"],
    value: Float[Tensor, "b heads m d"],
    attn_mask: Shaped[Tensor, "#b #heads #n m"] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "b heads n d"]:
    """Compute attention by `compute`, xformers' `memory_efficient_attention`.

    It takes the heads after the tokens. Causal attention and attention of grouped queries raise ValueError.
    """
    if is_causal or enable_gqa:
        raise ValueError("attention of images is neither causal nor of grouped queries")
    bias = None if attn_mask is None else _as_bias(attn_mask, query, key, value.dtype)
    # Under autocast, norms return float32. PyTorch's attention converts it; this kernel refuses mixed types.
    parts = [part.to(value.dtype).transpose(1, 2) for part in (query, key, value)]
    return compute(*parts, attn_bias=bias, p=dropout_p, scale=scale).transpose(1, 2)


def _as_bias(mask: Tensor, query: Tensor, key: Tensor, dtype: torch.dtype) -> Float[Tensor, "b heads n m"]:
    """Turn a mask, of booleans or of addends, into a bias whose rows are aligned as xformers needs them."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)
    count = key.shape[2]
    aligned = math.ceil(count / ALIGNMENT) * ALIGNMENT
    rows = torch.zeros(*mask.shape[:3], aligned, dtype=dtype, device=query.device)
    rows[..., :count] = mask
    return rows[..., :count].expand(*query.shape[:3], count)


def attend_by_flash(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """Compute attention by PyTorch's FlashAttention only, if it can be: in half precision without a mask.

    PyTorch chooses the kernel of all other calls.
    """
    if attn_mask is not None or value.dtype not in HALF_PRECISION:
        return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **settings)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, **settings)


@functools.cache
def _rerouted_processor(kind: type, attend: Attend) -> type:
    """Return a subclass of a processor of diffusers whose calls of PyTorch's attention go to `attend`."""

    class Rerouted(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.__call__)  # type: ignore[operator] # diffusers reads its parameters
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with _AttentionMode(attend):
                return super().__call__(*args, **kwargs)

    return Rerouted


class _AttentionMode(TorchFunctionMode):
    """Replaces PyTorch's attention by `attend` inside its context, also when a block is recomputed."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            func = self.attend
        return func(*args, **(kwargs or {}))
