"""Count what runs in torch: floating-point operations, and the bytes of the tensors that are alive.

Torch's own tool for memory is `MemTracker` of torch.distributed._tools. It refuses frozen networks, and
networks that run several times, as tests/training/test_torch_tools.py shows. The formulas for operations are
torch's.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Hashable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Layout(NamedTuple):
    """A tensor on the meta device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        """Return a new tensor of this layout."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class Outcome(NamedTuple):
    """The floating-point operations of one call on the meta device, and the layouts of its new tensors."""

    flops: int
    layouts: Layout | list[Layout | None]

    def make(self) -> Tensor | tuple[Tensor | None, ...]:
        """Return new outputs."""
        if isinstance(self.layouts, Layout):
            return self.layouts.make()
        return tuple(None if layout is None else layout.make() for layout in self.layouts)


class Meter(TorchDispatchMode):
    """While it is entered, count `flops`, forward and backward, and the bytes of the tensors that are made.

    `live` are the bytes alive now, `peak` the most that were alive at once. Tensors of every device count;
    those of the meta device have a size though no content. Tensors of `before`, and what shares their memory,
    do not count.

    Torch infers shapes on the meta device in Python, at up to a millisecond a call. A network calls the same
    operations with the same shapes again and again, so all meters share `_outcomes`: the outcome of each call
    by its operation and by `_describe` of its inputs. An operation that torch must run each time has None.
    """

    _outcomes: ClassVar[dict[Any, dict[Hashable, Outcome | None] | None]] = {}

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        self.peak = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in before}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each call the wrapper that keeps torch.compile out (newer versions of torch ask)."""
        return False

    def begin(self) -> None:
        """Start a new peak."""
        self.peak = self.live

    def take_flops(self) -> int:
        """Return the operations so far, and start a new count."""
        taken = self.flops
        self.flops = 0
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            known = self._outcomes[func]
        except KeyError:
            known = self._outcomes[func] = {} if _is_functional(func) else None
        if known is None:
            output = func(*args, **kwargs)
            self.flops += _flops(func, args, kwargs, output)
        else:
            output = self._recall(known, func, args, kwargs)
        if isinstance(output, Tensor):
            self._count(output)
        else:
            for value in tree_leaves(output):
                if isinstance(value, Tensor):
                    self._count(value)
        return output

    def _recall(self, known: dict[Hashable, Outcome | None], func: Any, args: Any, kwargs: Any) -> Any:
        """Return new outputs of a functional operation; torch is asked only for inputs that are new."""
        inputs = _describe(args), _describe(tuple(kwargs.items())) if kwargs else None
        outcome = known.get(inputs)
        if outcome is not None:
            self.flops += outcome.flops
            return outcome.make()
        output = func(*args, **kwargs)
        flops = _flops(func, args, kwargs, output)
        self.flops += flops
        if inputs not in known:
            known[inputs] = _outcome(flops, (args, kwargs), output)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._bytes:
            return
        size = storage.nbytes()
        self._bytes[key] = size
        self._watched[key] = weakref.ref(storage, functools.partial(self._forget, key))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, reference: object) -> None:
        self.live -= self._bytes.pop(key)
        del self._watched[key]


def _is_functional(func: Any) -> bool:
    """Return whether an operation declares that it changes no input and that its outputs are new."""
    schema = func._schema
    return all(value.alias_info is None for value in (*schema.arguments, *schema.returns))


def _describe(value: Any) -> Hashable:
    """Return what an output's shape can depend on, equal for equal shapes and settings."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_describe, value))
    return type(value), value  # 1, 1.0 and True are equal, but promote types differently


def _flops(func: Any, args: Any, kwargs: Any, output: Any) -> int:
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=output)


def _outcome(flops: int, inputs: Any, output: Any) -> Outcome | None:
    """Return what to remember of a call; None where an output is not a new tensor of the meta device."""
    seen = {value.untyped_storage()._cdata for value in tree_leaves(inputs) if isinstance(value, Tensor)}
    layouts: list[Layout | None] = []
    for value in output if isinstance(output, (tuple, list)) else (output,):
        if value is None:
            layouts.append(None)
            continue
        if not isinstance(value, Tensor) or not value.is_meta:
            return None
        storage = value.untyped_storage()
        layout = Layout(value.shape, value.stride(), value.dtype)
        if storage._cdata in seen or layout.make().untyped_storage().nbytes() != storage.nbytes():
            return None
        seen.add(storage._cdata)
        layouts.append(layout)
    if isinstance(output, Tensor):
        return None if layouts[0] is None else Outcome(flops, layouts[0])
    return Outcome(flops, layouts)
