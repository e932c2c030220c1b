"""The parts of a run's networks that its processes share, and the memory in which they are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import nn

from distill.training.distillation.sharded import CODEC_METHODS, FEATURES
from distill.training.dry_run.plan import BYTES_OF_FLOAT, Plan, elements_held
from distill.training.parallel.settings import ShardingSettings
from distill.training.parallel.sharding import sharded_root, units
from distill.types import Denoiser


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """What is gathered at once: the parameters of a block, or those of a network outside its blocks."""

    module: nn.Module
    parameters: tuple[nn.Parameter, ...]
    shards: int

    @property
    def part(self) -> int:
        """Bytes of its weights that each process holds."""
        return sum(
            parameter.itemsize * elements_held(parameter, self.shards) for parameter in self.parameters
        )

    @property
    def whole(self) -> int:
        """Bytes of its weights when they are gathered."""
        return self.shards * self.part

    @property
    def gradients(self) -> int:
        """Bytes of its gradients before they are scattered, in the type in which they are added up."""
        return self.shards * sum(
            reduced_bytes(parameter, self.shards) for parameter in self.parameters if parameter.requires_grad
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedNetwork:
    """A network whose parameters are shared out, block by block."""

    entry_points: tuple[str, ...]
    """Methods that compute with its weights."""
    outside: Unit
    """Everything outside its blocks; it is gathered throughout a pass."""
    blocks: tuple[Unit, ...]

    @classmethod
    def of(cls, network: nn.Module, methods: tuple[str, ...], shards: int) -> ShardedNetwork:
        """Divide a network into units as `Sharding.shard` does."""
        taken = set(network.whole_parameters()) if isinstance(network, Denoiser) else set()
        made = []
        for module in (*units(network), network):
            own = [parameter for parameter in module.parameters() if parameter not in taken]
            taken.update(own)
            made.append(Unit(module, tuple(own), shards))
        *blocks, outside = made
        return cls(("forward", *methods), outside, tuple(blocks))

    @property
    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is sharded."""
        for unit in (*self.blocks, self.outside):
            yield from unit.parameters

    @property
    def whole(self) -> int:
        """Bytes of all its weights when they are gathered."""
        return self.outside.whole + sum(unit.whole for unit in self.blocks)

    @property
    def one_by_one(self) -> int:
        """Bytes of weights if a block is freed before the next one computes.

        A block comes in a buffer of its own size, from which it is copied, and so does the next one while it
        computes.
        """
        return self.outside.whole + max(self.outside.whole, 2 * self.largest_block)

    @property
    def largest_block(self) -> int:
        """Bytes of the weights of its largest block, gathered."""
        return max((unit.whole for unit in self.blocks), default=0)

    @property
    def gradients(self) -> int:
        """Bytes of gradients before they are scattered: a block's, in themselves and in a buffer."""
        block = max((unit.gradients for unit in self.blocks), default=0)
        return self.outside.gradients + max(self.outside.gradients, 2 * block)


def sharded_networks(
    networks: Mapping[str, nn.Module], plan: Plan, sharding: ShardingSettings
) -> tuple[ShardedNetwork, ...]:
    """Return the networks of a run, by their roles, that its processes share.

    These are the denoisers, and large autoencoders and text encoders. All others are whole on each process.
    """
    if plan.shards == 1:
        return ()
    found: dict[nn.Module, ShardedNetwork] = {}
    held = set(networks.values())
    for network in networks.values():
        root = sharded_root(network)
        if not isinstance(root, Denoiser) or not list(root.parameters()):  # an exact score has none
            continue
        found[root] = ShardedNetwork.of(root, FEATURES, plan.shards)
        for component in root.frozen_components().values():
            size = sum(parameter.numel() for parameter in component.parameters())
            is_large = size >= sharding.min_component_parameters
            if is_large and component in held and component not in found:
                methods = tuple(name for name in CODEC_METHODS if hasattr(component, name))
                found[component] = ShardedNetwork.of(component, methods, plan.shards)
    return tuple(found.values())


def reduced_bytes(parameter: nn.Parameter, shards: int = 1) -> int:
    """Return the bytes of a process's part of a gradient, in the type in which gradients are added up."""
    return max(BYTES_OF_FLOAT, parameter.itemsize) * elements_held(parameter, shards)
