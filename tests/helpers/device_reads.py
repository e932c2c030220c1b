"""Notice where the host reads a value of the device, for which it would wait on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING_OPERATIONS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_dim",
    "aten::_unique2",
}
"""Operations that read a value, or whose result has a shape that depends on values."""
WAITING_METHODS = ("cpu", "item", "numpy", "tolist", "__bool__", "__float__", "__int__", "__index__")


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        indices = args[1] if name in ("aten::index", "aten::index_put") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if name in WAITING_OPERATIONS or by_mask:
            raise AssertionError(f"{name} reads a value of the device")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_device_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail at a read of a tensor's value inside the block, as if every tensor were on a GPU."""

    def refused(name: str) -> Callable[..., Any]:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"Tensor.{name} reads a value of the device")

        return method

    with monkeypatch.context() as patch, _Watch():
        for name in WAITING_METHODS:
            patch.setattr(Tensor, name, refused(name))
        yield
