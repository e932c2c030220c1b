"""Averages of gradients over processes, which start while the backward pass still runs."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from distill.training.parallel.processes import Processes

if TYPE_CHECKING:
    from torch.distributed import Work

BUCKET_BYTES = 25 * 2**20
"""Smaller buckets start earlier, larger ones use the connection better; the number is that of torch's own."""
ALIGNED = 4
"""Gradients begin at multiples of so many elements, since kernels load several at once."""

MoveGradients = Callable[[Sequence[int], Sequence[Tensor]], None]
"""Adds the gradients of the parameters with these indices to tensors, which are zero, and frees them."""


class GradientBuckets:
    """Averages the gradients of parameters that every process holds whole.

    The parameters, last ones first, are divided into buckets. In the last backward pass of an update, when
    all parameters of a bucket have their gradient, these are copied to one tensor, whose sum over processes
    starts. The tensor takes as much memory as the gradients, which are freed.

    A wrapper of the network could not do it: a step calls a network in several ways (features alone, frozen,
    under no_grad), which wrappers that hook `forward` do not follow.
    """

    def __init__(
        self,
        parameters: Mapping[int, Tensor],
        processes: Processes,
        move_gradients: MoveGradients,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.buckets = _divide(parameters, processes, move_gradients, bucket_bytes)
        self._queue: Queue | None = None
        for bucket in self.buckets:
            for index in bucket.indices:
                hook = partial(self._note, bucket, index)
                parameters[index].register_post_accumulate_grad_hook(hook)

    @torch.no_grad()
    def finish(self) -> dict[int, Tensor]:
        """Return the averaged gradients by index, laid out in memory as their weights.

        A parameter without a gradient counts as zero: other processes may have one.
        """
        queue = Queue(self.buckets) if self._queue is None else self._queue
        queue.start_up_to(self.buckets[-1])
        self._queue = None
        averaged: dict[int, Tensor] = {}
        for bucket in self.buckets:
            averaged.update(bucket.finish())
        return averaged

    def expect_gradients(self, queue: Queue) -> None:
        """Start the buckets of the queue in the backward pass that comes."""
        self._queue = queue
        for bucket in self.buckets:
            bucket.missing = set(bucket.indices)

    def _note(self, bucket: Bucket, index: int, parameter: Tensor) -> None:
        """Note that a parameter has its gradient."""
        if self._queue is None:
            return
        if index not in bucket.missing:
            raise RuntimeError("a parameter got a second gradient in one backward pass; expected one")
        bucket.missing.remove(index)
        self._queue.start_complete()


def expect_last_backward(several: Sequence[GradientBuckets]) -> None:
    """Start averages in the backward pass that comes, which is the last one before `finish` of each."""
    queue = Queue([bucket for each in reversed(several) for bucket in each.buckets])
    for each in several:
        each.expect_gradients(queue)


class Queue:
    """Buckets that start in their order, which is the same on all processes.

    The order of gradients may not be: a process may lack some. Sums that start in different orders would be
    mixed up.
    """

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._waiting = deque(buckets)

    def start_complete(self) -> None:
        """Start the buckets whose parameters all have their gradient, up to the first that is incomplete."""
        while self._waiting and not self._waiting[0].missing:
            self._waiting.popleft().start()

    def start_up_to(self, bucket: Bucket) -> None:
        """Start a bucket and those before it, complete or not."""
        while bucket.running is None:
            self._waiting.popleft().start()


@dataclasses.dataclass(eq=False)
class Bucket:
    """Parameters whose gradients are averaged as one tensor, of one type and on one device."""

    processes: Processes
    move_gradients: MoveGradients
    dtype: torch.dtype
    device: torch.device
    indices: list[int] = dataclasses.field(default_factory=list)
    places: list[tuple[torch.Size, tuple[int, ...], int]] = dataclasses.field(default_factory=list)
    """Shape, strides and first element of each gradient in the tensor."""
    size: int = 0
    """Number of elements of the tensor."""
    missing: set[int] = dataclasses.field(default_factory=set)
    """Parameters that still wait for their gradient in this backward pass."""
    running: RunningSum | None = None

    def add(self, index: int, parameter: Tensor) -> None:
        """Append a parameter."""
        strides = torch.empty_like(parameter, device="meta").stride()
        self.indices.append(index)
        self.places.append((parameter.shape, strides, self.size))
        self.size += -(-parameter.numel() // ALIGNED) * ALIGNED

    @torch.no_grad()
    def start(self) -> None:
        """Move the gradients that are there to one tensor, and start its sum over processes."""
        flat = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        views = [flat.as_strided(*place) for place in self.places]
        self.move_gradients(self.indices, views)
        self.running = RunningSum(flat, views, self.processes.start_sum(flat))

    def finish(self) -> dict[int, Tensor]:
        """Wait for the sum, and return the means by index. On a GPU the host does not wait."""
        if self.running is None:
            raise ValueError("a bucket is waited for before it starts")
        flat, views, work = self.running
        self.running = None
        work.wait()
        flat.div_(self.processes.count)
        return dict(zip(self.indices, views, strict=True))


class RunningSum(NamedTuple):
    """The sum of a bucket's gradients over processes, which may be on its way."""

    flat: Tensor
    views: list[Tensor]
    """The gradients, which are parts of `flat`."""
    work: Work


def _divide(
    parameters: Mapping[int, Tensor], processes: Processes, move_gradients: MoveGradients, bucket_bytes: int
) -> list[Bucket]:
    """Divide parameters into buckets: last ones first, about as the backward pass reaches them."""
    full: list[Bucket] = []
    unfilled: dict[tuple[torch.dtype, torch.device], Bucket] = {}
    for index, parameter in reversed(list(parameters.items())):
        kind = torch.promote_types(parameter.dtype, torch.float32), parameter.device
        bucket = unfilled.setdefault(kind, Bucket(processes, move_gradients, *kind))
        bucket.add(index, parameter)
        if bucket.size * bucket.dtype.itemsize >= bucket_bytes:
            full.append(unfilled.pop(kind))
    return [*full, *unfilled.values()]
