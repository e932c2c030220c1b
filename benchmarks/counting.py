"""Count operations that torch dispatches, reads of values and bytes of random numbers, by part of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.steps import Phase
from distill.data.sources.array import InBytes
from distill.training.batches import Batches
from distill.training.distillation.task import Distillation

PARTS = {"data": "data and noise", "fake": "fake update", "generator": "generator update"}
"""Parts of a step by their names on the task's clock."""
LATE = "reads a step late"
"""The part of reads that a step makes of the step before it, whose values have arrived by then."""
DRAWS = ("rand", "randn", "randint", "normal_", "uniform_", "random_", "bernoulli", "bernoulli_", "normal")
"""Names of the operations of torch that draw random numbers."""
IDLE = (
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "_local_scalar_dense",
)
"""Operations that compute nothing, beside views."""
READ_WITHOUT_DISPATCH = ("tolist", "numpy", "cpu", "__array__")
"""Methods of a tensor that wait for its values and dispatch no operation that says so."""


@dataclasses.dataclass
class Count:
    """Numbers of operations of one part of a step."""

    dispatched: int = 0
    computing: int = 0
    """Those that are neither views nor make empty tensors."""
    reads: int = 0
    """Times that Python took values out of a tensor."""


class Counter:
    """Counts operations and reads by part from `start` to `stop`."""

    def __init__(self) -> None:
        self.phase = Phase()
        self.parts: dict[str, Count] = {}
        self.modes = ExitStack()

    def name_parts(self, task: Distillation) -> None:
        """Make a task's updates say which part of the step they are."""
        task.clock = _NamingClock(task.clock, self.phase)
        for updater in task.updaters.values():
            self.phase.around(updater, "update", "optimiser")
        self.phase.around(task.ema, "update", "average")
        with suppress(ImportError):  # a checkout that reads at once has no later reads
            from distill.training.parallel.finite import HostCopy

            self.phase.around(HostCopy, "read", LATE)

    def start(self) -> None:
        """Begin to count."""
        self.modes.enter_context(_Operations(self))
        self.modes.enter_context(_Reads(self))

    def stop(self) -> None:
        """End the count."""
        self.modes.close()

    @property
    def here(self) -> Count:
        """The count of the part that runs now."""
        return self.parts.setdefault(self.phase.name, Count())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts by part, and their sum."""
        parts = {name: dataclasses.asdict(count) for name, count in sorted(self.parts.items())}
        total = {name: sum(part[name] for part in parts.values()) for name in dataclasses.asdict(Count())}
        return {**parts, "step": total}


class _NamingClock:
    """Names the parts of a step by those of the task's clock."""

    def __init__(self, clock: Any, phase: Phase) -> None:
        self.clock, self.phase = clock, phase

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        with self.phase.entered(PARTS.get(part, part)), self.clock(part):
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clock, name)


class _Operations(TorchDispatchMode):
    """Counts what is dispatched, in the forward and the backward pass."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        count, name = self.counter.here, func._schema.name.removeprefix("aten::")
        count.dispatched += 1
        count.computing += not (is_view(func) or name in IDLE)
        count.reads += name == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """Counts calls that read a tensor without an operation that says so."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READ_WITHOUT_DISPATCH:
            self.counter.here.reads += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Tell whether an operation's output shares the memory of its input, and nothing is written."""
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


class _Draws(TorchDispatchMode):
    """Counts operations, and the bytes of random numbers that torch draws."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.dispatched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.dispatched += 1
        output = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") in DRAWS:
            self.bytes += output.numel() * output.element_size()
        return output


def count_batch(image_shape: tuple[int, ...], batch_size: int, processes: int) -> dict[str, int]:
    """Count random bytes and operations of the first of several processes, which draws its part of a batch.

    Numbers of a counter-based generator count as what they take: four bytes each.
    """
    pixels = torch.from_numpy(np.zeros((16, *image_shape), np.uint8))
    batches = Batches(
        image_shape=image_shape,
        label_count=10,
        data=InBytes(pixels, torch.arange(16) % 10, 10),
        batch_size=batch_size,
        seed=0,
        device=torch.device("cpu"),
        process=0,
        processes=processes,
    )
    with _Draws() as draws, _counted_words() as words:
        next(batches.starting_at(0))
    return {"random bytes": draws.bytes + words.bytes, "dispatched": draws.dispatched}


@dataclasses.dataclass
class _Words:
    """Bytes of the words that the counter-based generator has drawn."""

    bytes: int = 0


@contextmanager
def _counted_words() -> Iterator[_Words]:
    """Count what the counter-based generator draws in the block; an older checkout draws by torch alone."""
    words = _Words()
    try:
        from distill.diffusion import counter_random
    except ImportError:
        yield words
        return
    original: Callable[..., Tensor] = counter_random._bits

    def bits(*args: Any, **kwargs: Any) -> Tensor:
        drawn = original(*args, **kwargs)
        words.bytes += 4 * drawn.numel()
        return drawn

    with mock.patch.object(counter_random, "_bits", bits):
        yield words
