"""What computes the attention of a network of diffusers: PyTorch's own choice of kernels, xformers, or FlashAttention wherever it can."""

from __future__ import annotations

import functools
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
"""A function with the arguments of `scaled_dot_product_attention` that returns what that returns."""
HALF = (torch.float16, torch.bfloat16)
"""What FlashAttention computes in."""
ALIGNED = 8
"""Elements after which xformers lets a row of a bias begin, in half precision."""


def open_backend(backend: Backend) -> Attend | None:
    """What computes attention; None for PyTorch as it is. Raises UserError where the package or the device is not there."""
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
            "teacher.attention: flash needs a CUDA device of compute capability 8.0 or more; expected sdpa or xformers"
        )
    return attend


def route_attention(network: nn.Module, attend: Attend | None) -> None:
    """Have the attention of this network, and of copies of it, computed by what `open_backend` returned.

    Each layer's processor is replaced by one of its own kind within which the calls of PyTorch's attention go there. What stands around such a call
    stays as it is: projections, norms of queries and keys, positions, masks; and so does attention of other kinds, such as linear.
    """
    if attend is None:
        return
    layers: list[Any] = [
        module
        for module in network.modules()
        if hasattr(module, "processor") and hasattr(module, "set_processor")
    ]
    for layer in layers:
        kind: Any = type(layer.processor)
        layer.set_processor(_within(kind, attend)())


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
    """By `compute`, xformers' `memory_efficient_attention`, which has the heads after the tokens. Raises ValueError for a causal mask."""
    if is_causal or enable_gqa:
        raise ValueError("attention of images is neither causal nor of grouped queries")
    bias = None
    if attn_mask is not None:
        added = (
            attn_mask
            if attn_mask.dtype != torch.bool
            else torch.zeros_like(attn_mask, dtype=value.dtype).masked_fill(~attn_mask, -torch.inf)
        )
        count = key.shape[2]
        rows = value.new_zeros(*added.shape[:3], -(-count // ALIGNED) * ALIGNED)
        rows[..., :count] = added
        bias = rows[..., :count].expand(*query.shape[:3], count)
    # Under autocast norms leave float32, which the kernel does not take beside half precision; PyTorch's attention converts for itself.
    parts = [part.to(value.dtype).transpose(1, 2) for part in (query, key, value)]
    return compute(*parts, attn_bias=bias, p=dropout_p, scale=scale).transpose(1, 2)


def attend_by_flash(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """By PyTorch's FlashAttention alone in half precision without a mask; other calls, which it cannot take, by what PyTorch chooses."""
    if attn_mask is not None or value.dtype not in HALF:
        return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **settings)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, **settings)


@functools.cache
def _within(kind: type, attend: Attend) -> type:
    """A kind of diffusers' processors of attention whose calls of PyTorch's attention go to `attend`."""

    class Within(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.__call__)  # type: ignore[operator] # diffusers asks for its parameters
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with _Rerouted(attend):
                return super().__call__(*args, **kwargs)

    return Within


class _Rerouted(TorchFunctionMode):
    """Within, PyTorch's attention is `attend`, in a pass that is made again for its gradient too."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self.attend if func is scaled_dot_product_attention else func)(*args, **(kwargs or {}))
