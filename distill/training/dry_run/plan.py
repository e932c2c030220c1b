"""The processes for which a run is described, and what each of them holds of the run's networks."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from torch import Tensor

from distill.config.errors import UserError
from distill.training.batches import check_split
from distill.training.settings import RunSettings

Config = TypeVar("Config", bound=RunSettings)
BYTES_OF_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """The processes of a run, which hold `copies` of its networks, each in so many parts (`shards`)."""

    processes: int = 1
    nodes: int = 1
    copies: int = 1
    shards: int = 1
    reshards: bool = True
    """Gathered weights are freed after the forward pass (`sharding.reshard_after_forward`)."""

    @classmethod
    def of(cls, config: RunSettings, processes: int, nodes: int = 1) -> Plan:
        """Return the plan of a run on so many processes and machines."""
        if processes % nodes:
            raise UserError(f"--nodes: {nodes} does not divide the {processes} processes; expected a divisor")
        check_split(config.batch_size, processes)
        sharding = config.sharding
        if sharding.is_on and processes == 1:
            raise UserError(
                f"sharding.strategy: is {sharding.strategy}; expected none for one process, "
                "or --processes and their number"
            )
        try:
            copies, shards = sharding.sizes(processes, nodes)
        except ValueError as error:
            raise UserError(f"sharding.{error}") from error
        return cls(processes, nodes, copies, shards, sharding.reshard_after_forward)

    def of_one_process(self, config: Config) -> Config:
        """Return the configuration with the batch of one process."""
        return config.model_copy(update={"batch_size": config.batch_size // self.processes})

    def describe(self, config: RunSettings) -> str:
        """Say how a run's processes share its batch and its networks."""
        machines = "1 machine" if self.nodes == 1 else f"{self.nodes} machines"
        images = f"{config.batch_size // self.processes} of {config.batch_size} images"
        line = f"one of {self.processes} processes on {machines}, with {images}"
        if not config.sharding.is_on:
            return f"{line}; each holds whole networks"
        copies = "1 copy" if self.copies == 1 else f"{self.copies} copies"
        return (
            f"{line}; sharding {config.sharding.strategy}: {copies} of the networks, "
            f"each in {self.shards} parts"
        )


ONE_PROCESS = Plan()


def elements_held(tensor: Tensor, shards: int) -> int:
    """Return the number of elements that a process holds of a tensor that is split by rows.

    Parts are of equal size, the last ones filled up.
    """
    if shards == 1 or not tensor.numel():
        return tensor.numel()
    rows = -(-tensor.shape[0] // shards)
    return rows * (tensor.numel() // tensor.shape[0])
