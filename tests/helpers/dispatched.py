"""Operations that torch dispatches inside a context, with the types of their inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Dispatched(TorchDispatchMode):
    """Records the name of each operation, and the tensors that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        self.calls.append((func._overloadpacket.__name__, tensors))
        return func(*args, **(kwargs or {}))

    def types_of(self, *names: str) -> set[torch.dtype]:
        """Return the types of the inputs of operations of these names."""
        return {tensor.dtype for name, tensors in self.calls if name in names for tensor in tensors}

    def casts(self, of: list[Tensor]) -> int:
        """Count the casts of these tensors, or of what shares their memory."""
        own = {tensor.untyped_storage()._cdata for tensor in of}
        return sum(
            name == "_to_copy" and tensors[0].untyped_storage()._cdata in own for name, tensors in self.calls
        )
