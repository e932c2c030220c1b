"""Networks that are sharded over processes by torch's `fully_shard`, the only file that knows it.

Each process holds some rows of every parameter. A block is gathered whole when it computes, in the forward
and again in the backward pass, and freed afterwards. Gradients arrive as rows, averaged over all processes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from distill.networks.computation.compilation import repeated_blocks
from distill.networks.few_step_generator import FewStepGenerator
from distill.training.parallel.processes import Processes
from distill.training.parallel.settings import ShardingSettings
from distill.training.parallel.shards import local
from distill.types import Denoiser


@runtime_checkable
class NormalizedLayer(Protocol):
    """A layer that keeps the rows of its weight at unit magnitude in training."""

    weight: Tensor
    is_normalized_outside: bool
    """The layer leaves its weight as it is: someone else calls `normalize_rows` before a forward pass."""

    def normalize_rows(self, rows: Tensor) -> None:
        """Bring rows of the weight to unit magnitude, in place."""
        ...


@runtime_checkable
class SelfNormalizing(Protocol):
    """A network with such layers, as EDM2's."""

    def normalized_layers(self) -> Sequence[NormalizedLayer]:
        """Return the layers whose weights a forward pass normalises."""
        ...


@dataclasses.dataclass(frozen=True)
class Sharding:
    """Shards networks over the processes of a run, and gathers them where it must."""

    settings: ShardingSettings
    processes: Processes

    @property
    def is_on(self) -> bool:
        return self.settings.is_on

    def shard(self, network: nn.Module, entry_points: Sequence[str] = ()) -> None:
        """Shard a network's parameters. Those on the meta device have no values afterwards either.

        `entry_points` are methods, besides `forward`, that compute with the parameters. Parameters that
        `whole_parameters` names stay whole on every process.
        """
        whole = set(network.whole_parameters()) if isinstance(network, Denoiser) else set()
        reduced = any(torch.finfo(parameter.dtype).bits < 32 for parameter in network.parameters())
        options: dict[str, Any] = {
            "mesh": self.processes.mesh,
            "reshard_after_forward": self.settings.reshard_after_forward,
            "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32 if reduced else None),
            "ignored_params": whole,
        }
        # Torch warns of changes in place of what a network returns. There are none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        for unit in units(network):
            fully_shard(unit, **options)
        fully_shard(network, **options)
        _keep_class_names(network)
        for name in entry_points:
            register_fsdp_forward_method(network, name)
        _normalize_rows_before(network, entry_points)

    @contextmanager
    def gathered(self, *networks: nn.Module) -> Iterator[None]:
        """Hold networks whole between their forward and backward passes.

        A gradient penalty differentiates the backward pass, for which blocks cannot be gathered again.
        """
        modules = [module for network in networks for module in sharded_modules(network)]
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
        try:
            yield
        finally:
            for module in modules:
                module.set_reshard_after_forward(self.settings.reshard_after_forward, recurse=False)
                module.set_reshard_after_backward(True, recurse=False)
                module.reshard()

    def free(self, *networks: nn.Module) -> None:
        """Free gathered weights that no backward pass has freed, before weights change.

        Otherwise the next forward pass would compute with the old ones.
        """
        for network in networks if self.is_on else ():
            for module in sharded_modules(network):
                module.reshard()


def sharded_root(network: nn.Module) -> nn.Module:
    """Return the part of a network that is sharded as one: of a generator, the denoiser that it evaluates."""
    return network.denoiser if isinstance(network, FewStepGenerator) else network


def sharded_modules(network: nn.Module) -> list[FSDPModule]:
    """Return the units of a network, and the network itself, if they are sharded."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def units(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that are gathered one by one, inner ones first."""
    kept_whole: set[str] = set()
    for module in network.modules():
        kept_whole.update(getattr(module, "_no_split_modules", None) or ())
    named = {module for module in network.modules() if type(module).__name__ in kept_whole}
    blocks = named.union(repeated_blocks(network)) - {network}
    return [module for module in reversed(list(network.modules())) if module in blocks]


def _keep_class_names(network: nn.Module) -> None:
    """Let the classes that `fully_shard` makes be known by the names of their originals.

    transformers finds by these names whether a model returns hidden states.
    """
    for module in sharded_modules(network):
        made = type(module)
        original = made.__mro__[2]  # after itself and FSDPModule
        made.__module__, made.__qualname__ = original.__module__, original.__qualname__


def _normalize_rows_before(network: nn.Module, entry_points: Sequence[str]) -> None:
    """Let the layers that normalise their weights do so on this process's rows, before each forward pass.

    What a layer does to the gathered weight is lost when it is freed.
    """
    if not isinstance(network, SelfNormalizing):
        return
    layers = network.normalized_layers()
    for layer in layers:
        layer.is_normalized_outside = True

    def normalize(*_: object) -> None:
        if network.training:
            for layer in layers:
                layer.normalize_rows(local(layer.weight))

    network.register_forward_pre_hook(normalize, prepend=True)
    for name in entry_points:
        setattr(network, name, _after(normalize, getattr(network, name)))


def _after(first: Callable[[], None], method: Callable[..., Any]) -> Callable[..., Any]:
    def both(*inputs: Any, **settings: Any) -> Any:
        first()
        return method(*inputs, **settings)

    return both
