"""What runs in torch, counted while it runs: floating-point operations, and the bytes of the tensors that live."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """While it is entered: `flops`, there and back, and the bytes of the tensors made in it that live, `live` now and `most` at any time so far.

    Tensors of any device count, of the meta device too, which have a size though they have no content. Those of `before`, and what shares their
    memory, do not.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.flops = self.live = self.most = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def begin(self) -> None:
        """From here on `most` is that of what follows."""
        self.most = self.live

    def take_flops(self) -> int:
        """The operations so far, and count anew."""
        taken, self.flops = self.flops, 0
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._count(value)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._bytes.pop(key)
