"""Follow what the processes of a run would send each other, and split gradients as they would."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_leaves

from distill.training.dry_run.plan import Plan, elements_held
from distill.training.dry_run.sharded import ShardedNetwork, Unit, reduced_bytes
from distill.training.parallel.buckets import BUCKET_BYTES


class Traffic(NamedTuple):
    """Bytes that one process sends, by kind."""

    gathered: float = 0.0
    """Of weights: its parts of sharded networks, to the others that share them."""
    scattered: float = 0.0
    """Of gradients: the others' parts."""
    averaged: float = 0.0
    """Of gradients: those of whole parameters to all processes, and parts to the other copies."""

    def plus(self, other: Traffic, times: float = 1.0) -> Traffic:
        """Add so many times another traffic."""
        return Traffic(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


class Passes:
    """While it is entered, follow the passes of the sharded networks of a simulated step.

    A forward pass gathers a block when it begins and frees it when it ends. The backward pass gathers it
    again, scatters its gradients and frees it; recomputation within it gathers nothing more. A network that
    is kept, and every one if `reshard_after_forward` is false, stays gathered in between. Each gradient of a
    sharded parameter is replaced by the part that a process keeps of it.

    A process sends its part of a tensor to the n - 1 others that share the network, and as much of gradients.
    Averages over n processes are sums in a ring, in which it sends 2 (n - 1)/n of the bytes. Not counted are
    numbers for the log, and blocks that are fetched in advance and not used. Each micro-batch counts as the
    first one, though without resharding a later one finds weights gathered.
    """

    def __init__(self, networks: Iterable[ShardedNetwork], trained: Iterable[nn.Module], plan: Plan) -> None:
        self.networks, self.trained, self.plan = list(networks), list(trained), plan
        self._sharded = {parameter: network for network in self.networks for parameter in network.parameters}
        self._stack = ExitStack()
        self.begin()

    def begin(self, kept: nn.Module | None = None) -> None:
        """Start a new count, of an update in which the network `kept` stays gathered between its passes."""
        self._kept = kept
        self._gathered: set[Unit] = set()
        self._used: set[ShardedNetwork] = set()
        self._whole: set[ShardedNetwork] = set()
        self._differentiated: set[nn.Parameter] = set()
        self._parts: list[Tensor] = []
        self.of_passes = Traffic()
        """What the passes so far sent; every micro-batch does so again."""

    def __enter__(self) -> Passes:
        if self.plan.processes == 1:
            return self
        for network in self.networks:
            for unit in (*network.blocks, network.outside):
                methods = network.entry_points if unit is network.outside else ("forward",)
                for name in methods:
                    self._wrap(network, unit, name)
        parameters = {parameter for network in self.trained for parameter in network.parameters()}
        for parameter in parameters:
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._note_gradient)
                self._stack.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def of_update(self) -> Traffic:
        """Bytes that the update after the passes sends, to average the gradients of whole parameters."""
        return Traffic(averaged=_ring(self.plan.processes) * sum(self._averaged()))

    @property
    def memory(self) -> int:
        """Bytes that take at most what is gathered, and gradients that are on their way."""
        kept = sum(network.whole for network in self._whole)
        moving = [min(size, BUCKET_BYTES) for size in self._averaged()]
        for network in self._used:
            weights = network.largest_block if network in self._whole else network.one_by_one
            has_gradients = not self._differentiated.isdisjoint(network.parameters)
            moving.append(weights + has_gradients * network.gradients)
        return kept + max(moving, default=0)

    def _averaged(self) -> Iterator[int]:
        """Yield the bytes of gradients of whole parameters, of each network that the update trains."""
        for network in self.trained:
            parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
            if not self._differentiated.isdisjoint(parameters):
                whole = [parameter for parameter in parameters if parameter not in self._sharded]
                yield sum(map(reduced_bytes, whole))

    def _wrap(self, network: ShardedNetwork, unit: Unit, name: str) -> None:
        """Follow the calls of one method of a unit, until the end."""
        module, method = unit.module, getattr(unit.module, name)
        before = module.__dict__.get(name)

        @functools.wraps(method)
        def followed(*inputs: Any, **settings: Any) -> Any:
            if torch._C._current_graph_task_id() != -1:  # recomputation, in the backward pass
                return method(*inputs, **settings)
            self._gather(network, unit)
            outputs = method(*inputs, **settings)
            if network.outside.module is self._kept or not self.plan.reshards:
                self._whole.add(network)
            else:
                self._gathered.discard(unit)
            self._follow_back(network, unit, _differentiable(inputs), _differentiable(outputs))
            return outputs

        setattr(module, name, followed)
        self._stack.callback(_restore, module, name, before)

    def _follow_back(
        self, network: ShardedNetwork, unit: Unit, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        """Gather a unit again when its first gradient arrives, if any does.

        It is freed where it gives gradients to its inputs, and at the end of the backward pass if it gives
        none.
        """

        def gather(gradient: Tensor) -> None:
            self._gather(network, unit)
            if inputs and network.outside.module is not self._kept:
                self._gathered.discard(unit)

        if outputs:
            register_multi_grad_hook(outputs, gather, mode="any")

    def _gather(self, network: ShardedNetwork, unit: Unit) -> None:
        self._used.add(network)
        if unit not in self._gathered:
            self._gathered.add(unit)
            sent = (self.plan.shards - 1) * unit.part
            self.of_passes = self.of_passes.plus(Traffic(gathered=sent))

    def _note_gradient(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        self._differentiated.add(parameter)
        if parameter not in self._sharded:
            return
        part = reduced_bytes(parameter, self.plan.shards)
        sent = Traffic(scattered=(self.plan.shards - 1) * part, averaged=_ring(self.plan.copies) * part)
        self.of_passes = self.of_passes.plus(sent)
        held = elements_held(parameter, self.plan.shards)
        self._parts.append(torch.empty(held, dtype=parameter.dtype, device=parameter.device))
        parameter.grad = None


def _differentiable(values: Any) -> list[Tensor]:
    """Return the tensors among values that have a graph, none where graphs are off."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return [tensor for tensor in tensors if tensor.requires_grad and torch.is_grad_enabled()]


def _ring(processes: int) -> float:
    """Return how many times its bytes a process sends of a tensor that is summed in a ring."""
    return 2 * (processes - 1) / processes


def _restore(module: nn.Module, name: str, before: Callable[..., Any] | None) -> None:
    """Undo that a method was set on a module."""
    if before is None:
        delattr(module, name)
    else:
        setattr(module, name, before)
