"""The processes that evaluate together, as `torchrun -m eval fid ...` starts them.

They share the work shard by shard, in one feature store.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from distill.config.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Processes:
    """The number of this process, from 0, and the count of all; several talk through torch.distributed."""

    number: int
    count: int

    @classmethod
    def single(cls) -> Processes:
        """This process alone."""
        return cls(0, 1)

    @classmethod
    def of_environment(cls) -> Processes:
        """Join the processes that torchrun started, or take this process alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls.single()
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
            # A group that outlives the interpreter may abort the process.
            atexit.register(distributed.destroy_process_group)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        return self.number == 0

    def device(self, name: str) -> torch.device:
        """Choose this process's device: the CPU, or one GPU for each process. `name` is auto, cpu or cuda."""
        if name == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: is not available; expected auto or cpu")
        if name == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.number % torch.cuda.device_count())

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """Take this process's part of the work."""
        return work[self.number :: self.count]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather([])

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all processes, in the order of the processes, to all of them."""
        if self.count == 1:
            return values
        from torch import distributed

        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, values)
        return [value for part in gathered for value in part]
