"""Make the meta device hold what CUDA would hold: fused attention, and the types of CUDA's autocast.

Torch's own way would be fake tensors on a pretended CUDA device, `FakeTensorMode`. Without CUDA these have
no backward pass, which tests/training/test_torch_tools.py shows; the meta device has one everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from distill.networks.computation.activation_checkpointing import Recompute, recompute

IN_HALF = frozenset(
    """
    addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    einsum linear matmul __matmul__ __rmatmul__ mm mv scaled_dot_product_attention
    """.split()  # noqa: SIM905 - one name a line would be a page
)
"""Functions that CUDA's autocast computes in half precision, of those in networks and losses."""
IN_FLOAT32 = frozenset(
    """
    __pow__ cosine_similarity cumsum exp group_norm interpolate l1_loss layer_norm log log_softmax mse_loss
    norm pow prod reciprocal rms_norm rsqrt smooth_l1_loss softmax softplus sum
    """.split()  # noqa: SIM905
)
"""Functions that CUDA's autocast computes in float32, of the same."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Types that autocast casts."""


class MetaKernels(TorchFunctionMode):
    """Within this mode attention holds no (n, n) weights; with `autocast`, functions use CUDA's types.

    `autocast` is bfloat16 or float16, or None for no autocast. As in CUDA's, trainable weights are cast once,
    and the casts live as long as the mode is entered.
    """

    def __init__(self, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.autocast = autocast
        self._casts: dict[int, Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._casts.clear()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        cast = self._cast_of(func)
        if cast is not None:
            args = _map(cast, args)
            kwargs = {name: _map(cast, value) for name, value in kwargs.items()}
        # The penalty R1 allows only attention that can be differentiated twice, which no fused kernel can.
        if func is scaled_dot_product_attention and torch.backends.cuda.flash_sdp_enabled():
            func = fused_attention
        return func(*args, **kwargs)

    def _cast_of(self, func: Callable[..., Any]) -> Callable[[Tensor], Tensor] | None:
        """Return how autocast casts the inputs of a function, None where it does not."""
        if self.autocast is None:
            return None
        name = getattr(func, "__name__", "")
        if name in IN_HALF:
            return self._to_half
        return _to_float32 if name in IN_FLOAT32 else None

    def _to_half(self, tensor: Tensor) -> Tensor:
        if self.autocast in (None, tensor.dtype) or tensor.dtype not in FLOATS:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.autocast)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor.to(self.autocast)
        return self._casts[id(tensor)]


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in FLOATS else tensor


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a function's argument, with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return [_map(change, item) for item in value]
    return value


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute `scaled_dot_product_attention` by the fused kernel that takes any head width, mask and type.

    Tensors without heads, (b, n, d), are computed by the definition: no fused kernel takes them.
    """
    if query.ndim != 4:
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores + attn_mask
        return scores.softmax(-1) @ value
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    needs_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    outputs = kernel(query, key, value, attn_mask, needs_gradient, dropout_p, is_causal, scale=scale)
    output: Tensor = outputs[0]
    return output


def kernels(device: torch.device, autocast: torch.dtype | None = None) -> AbstractContextManager[object]:
    """Compute as a run would, in autocast's type if there is one; on the meta device, as on CUDA."""
    if device.type == "meta":
        return MetaKernels(autocast)
    return torch.autocast(device.type, autocast, enabled=autocast is not None)


def recompute_on_meta(autocast: torch.dtype | None) -> Recompute:
    """Return how blocks are recomputed on the meta device: within `MetaKernels`, as they were computed."""
    return partial(recompute, context_fn=lambda: (nullcontext(), MetaKernels(autocast)))
