"""The processes that train together, and everything that they say to each other.

Every function here that communicates must be called by all processes, in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from distill.config.errors import UserError
from distill.training.parallel.shards import local

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Process `index` of `count`, which compute on `device`, on so many machines (`nodes`)."""

    device: torch.device
    index: int = 0
    count: int = 1
    nodes: int = 1
    mesh: DeviceMesh | None = None
    """The processes by replica and shard, (replicas, shards); None if networks are not sharded."""
    overlapping: ProcessGroup | None = None
    """All processes once more, for sums that overlap with other communication. None takes the usual group."""

    @property
    def is_main(self) -> bool:
        return self.index == 0

    @property
    def shards(self) -> int:
        """The number of processes over which one copy of a network is sharded."""
        return 1 if self.mesh is None else self.mesh.size(-1)

    @property
    def shard_index(self) -> int:
        """The number of the part of each sharded tensor that this process holds."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(self.mesh.ndim - 1)

    @property
    def writes_shards(self) -> bool:
        """True on the processes that together hold one whole copy of every sharded tensor."""
        return self.index < self.shards

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes."""
        return self._sum(tensor, None) if self.count > 1 else tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        return self._sum(tensor, None) / self.count if self.count > 1 else tensor

    def sum_over_shards(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes that share one copy of the networks."""
        return tensor if self.mesh is None else self._sum(tensor, self.mesh.get_group(self.mesh.ndim - 1))

    def start_sum(self, tensor: Tensor) -> Work:
        """Start to add up a tensor over all processes in place. Wait for the result before you read it.

        Other communication may go on meanwhile, but such sums must start in the same order everywhere.
        """
        work = distributed.all_reduce(tensor, group=self.overlapping, async_op=True)
        assert work is not None  # None is for processes outside the group
        return work

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the processes' tensors, which have one shape, along the first axis, on all of them."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor by the main process's, which has the same shape and type."""
        if self.count > 1:
            distributed.broadcast(tensor, src=0)

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all processes, in their order. Waits for all processes."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, value)
        return gathered

    def main_object(self, value: T) -> T:
        """Return the value of the main process. Waits for it."""
        return self.gather_objects(value)[0]

    def on_main(self, make: Callable[[], T]) -> T | None:
        """Call a function on the main process alone, and return its result there.

        A UserError that it raises there is raised by all processes.
        """
        result, refusal = None, None
        if self.is_main:
            try:
                result = make()
            except UserError as error:
                refusal = str(error)
        refusal = self.main_object(refusal)
        if refusal is not None:
            raise UserError(refusal)
        return result

    def most(self, count: int) -> int:
        """Return the largest of the processes' counts. Waits for all processes."""
        return max(self.gather_objects(count))

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather_objects(None)

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """Return this process's part of the work."""
        return work[self.index :: self.count]

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a sharded tensor as a whole, on all processes; any other tensor is returned as it is."""
        return tensor if tensor is local(tensor) else tensor.full_tensor()  # type: ignore[attr-defined]

    def _sum(self, tensor: Tensor, group: ProcessGroup | None) -> Tensor:
        total = tensor.contiguous().clone()
        distributed.all_reduce(total, group=group)
        return total
