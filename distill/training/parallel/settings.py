"""Settings of runs of several processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distill.config.settings import Settings


class ShardingSettings(Settings):
    """How the weights, gradients and optimiser states of networks are distributed over processes."""

    strategy: Literal["none", "full", "hybrid"] = "none"
    """`none`: every process holds whole networks, and gradients are averaged. `full`: each process holds one
    part of every weight, gradient and optimiser state, and blocks are gathered when they compute (FSDP2).
    Memory shrinks with the number of processes, at the price of traffic. `hybrid`: groups of processes hold
    one copy each, so that the traffic of blocks stays within a group, usually a machine (HSDP)."""
    group_size: int | None = Field(None, ge=2)
    """Processes that hold one copy of the networks together, with `hybrid`. null takes the processes of one
    machine. A smaller group has less traffic and takes more memory."""
    reshard_after_forward: bool = True
    """Free gathered weights after the forward pass and gather them again for the backward pass. false keeps
    them between the two: a third less traffic, and more memory."""
    min_component_parameters: int = Field(250_000_000, ge=0)
    """Text encoders and autoencoders with at least so many parameters are sharded too. Smaller ones are held
    whole by every process, which is faster."""

    @model_validator(mode="after")
    def _group_fits(self) -> ShardingSettings:
        if self.group_size is not None and self.strategy != "hybrid":
            raise ValueError(f"group_size: goes with hybrid; expected null with {self.strategy}")
        return self

    @property
    def is_on(self) -> bool:
        return self.strategy != "none"

    def sizes(self, processes: int, nodes: int) -> tuple[int, int]:
        """Return the number of copies of the networks, and of processes that share one.

        Raises ValueError if processes do not divide into such groups.
        """
        if self.strategy == "none":
            return processes, 1
        if self.strategy == "full":
            return 1, processes
        size = self.group_size or processes // nodes
        if processes % size:
            raise ValueError(
                f"group_size: {size} does not divide the {processes} processes; expected a divisor"
            )
        return processes // size, size
