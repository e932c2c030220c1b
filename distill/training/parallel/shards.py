"""The part of a sharded tensor that this process holds: a range of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's rows of a sharded tensor, in its own memory; any other tensor is its own part."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def local_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's rows of each tensor."""
    return [local(tensor) for tensor in tensors]


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether processes hold different rows of a tensor."""
    return isinstance(tensor, DTensor)


def row_range(rows: int, index: int, count: int) -> range:
    """Return the rows of part `index` of `count`, as torch splits them: the last ones may be shorter."""
    size = -(-rows // count)
    start = min(index * size, rows)
    return range(start, min(start + size, rows))
