"""Activation checkpointing (Chen et al. 2016): blocks keep their inputs and recompute everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from distill.networks.computation.second_derivatives import attention_kernels, recompute_twice
from distill.types import ImageModel

Recompute = Callable[..., Any]
"""(block, *inputs) -> block(*inputs), with a graph that keeps the inputs only."""


class CheckpointedBlock(nn.Module):
    """A block of our own networks; it is checkpointed while `recompute` is set.

    In `differentiating_twice(recompute=True)` it is recomputed for first and second derivatives.
    """

    recompute: Recompute | None = None

    def __call__(self, *inputs: Any) -> Any:
        run = super().__call__
        if not torch.is_grad_enabled():
            return run(*inputs)
        if _Twice.recomputes and not self._forward_hooks:
            return recompute_twice(run, list(self.parameters()), *inputs)
        return run(*inputs) if self.recompute is None else self.recompute(run, *inputs)


class _Twice:
    """State of `differentiating_twice`."""

    is_on = False
    recomputes = False


@contextmanager
def differentiating_twice(recompute: bool = False) -> Iterator[None]:
    """Call networks such that their outputs can be differentiated twice, as penalties on gradients do.

    Fused attention and compiled graphs cannot be; they are left out, also when blocks are recomputed later.
    With `recompute` our own blocks keep less for both derivatives.
    """
    before = _Twice.is_on, _Twice.recomputes
    _Twice.is_on, _Twice.recomputes = True, recompute
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _Twice.is_on, _Twice.recomputes = before


def recompute(block: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """Run a block by torch's non-reentrant checkpoint, which takes the settings.

    Gradients of any order and dropout stay the same. A block whose output a hook reads runs without a
    checkpoint: in the recomputation its hook would run again, and may leave it by an exception.
    """
    if isinstance(block, nn.Module) and _is_read(block):
        return block(*inputs)
    kernels, twice = attention_kernels(), _Twice.is_on

    def run(*inputs: Any) -> Any:
        # As in the forward pass: a penalty on a gradient, which restricts both, is over when the block is
        # recomputed.
        uncompiled = torch.compiler.set_stance("force_eager") if twice else nullcontext()
        with sdpa_kernel(kernels), uncompiled:
            return block(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False, **settings)


def _is_read(block: nn.Module) -> bool:
    """Tell whether a hook reads a block's output; `fully_shard` has one on each block, which does not."""
    return len(block._forward_hooks) > isinstance(block, FSDPModule)


def checkpoint_activations(network: ImageModel, how: Recompute | None = recompute) -> None:
    """Checkpoint the blocks of a network and its autoencoder, or stop it (None). Later copies do the same."""
    for module in checkpointable(network):
        if isinstance(module, CheckpointedBlock):
            module.recompute = how
        elif how is None:
            module.disable_gradient_checkpointing()
        else:
            module.enable_gradient_checkpointing(how)


def checkpointable(network: ImageModel) -> Iterator[Any]:
    """Yield a network's own blocks, and the networks of diffusers in it, which know their own blocks."""
    for part in (network, *network.frozen_components().values()):
        for module in part.modules():
            is_of_diffusers = getattr(module, "_supports_gradient_checkpointing", False)
            if isinstance(module, CheckpointedBlock) or is_of_diffusers:
                yield module
