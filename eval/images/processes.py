"""The processes that evaluate together: `torchrun -m eval fid ...`. They share the work by shards and one folder of features."""

from __future__ import annotations

import atexit
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process's number, how many there are, and what they talk through where there are several."""

    number: int
    count: int

    @classmethod
    def single(cls) -> Processes:
        return cls(0, 1)

    @classmethod
    def of_environment(cls) -> Processes:
        """The processes that torchrun started, or this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls.single()
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
            atexit.register(
                distributed.destroy_process_group
            )  # a group that outlives the interpreter may abort the process
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        return self.number == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """What of the work is this process's."""
        return work[self.number :: self.count]

    def wait(self) -> None:
        """Until all are here."""
        self.gather([])

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes, in all of them."""
        if self.count == 1:
            return values
        from torch import distributed

        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, values)
        return [value for part in gathered for value in part]
