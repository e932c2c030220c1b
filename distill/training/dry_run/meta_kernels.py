"""What CUDA would compute, and hold for the way back, of tensors on the meta device, which is no device that torch chooses kernels for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

REDUCED = {
    "addbmm", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "einsum", "linear",
    "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "scaled_dot_product_attention",
}  # fmt: skip
FULL = {
    "__pow__", "cosine_similarity", "cumsum", "exp", "group_norm", "interpolate", "l1_loss", "layer_norm", "log", "log_softmax", "mse_loss", "norm",
    "pow", "prod", "reciprocal", "rms_norm", "rsqrt", "smooth_l1_loss", "softmax", "softplus", "sum",
}  # fmt: skip
"""Functions that torch's autocast computes in bfloat16, and in float32, on CUDA, of those that networks and losses are made of."""


class MetaKernels(TorchFunctionMode):
    """Within, attention holds no weights of attention, as fused kernels do not; with `autocast` functions compute in CUDA's types under bfloat16.

    Weights that learn are cast once, as autocast has it, and their casts live as long as this mode is entered.
    """

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.autocast = autocast
        self._casts: dict[int, Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._casts.clear()
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, inputs = getattr(func, "__name__", ""), (args, kwargs or {})
        if self.autocast and name in REDUCED | FULL:
            inputs = tree_map(self._reduced if name in REDUCED else self._full, inputs)
        # The penalty R1 asks for attention that can be differentiated twice, which no fused kernel can.
        is_fused = name == "scaled_dot_product_attention" and torch.backends.cuda.flash_sdp_enabled()
        return (attend if is_fused else func)(*inputs[0], **inputs[1])

    def _reduced(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.bfloat16()
        if id(value) not in self._casts:
            self._casts[id(value)] = value.bfloat16()
        return self._casts[id(value)]

    def _full(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by the fused kernel that takes every width of heads, mask and type."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    is_learnt = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, is_learnt, dropout_p, is_causal, scale=scale)[0]
