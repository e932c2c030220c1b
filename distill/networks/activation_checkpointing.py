"""Activation checkpointing (Chen et al. 2016): blocks keep their inputs and recompute everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from distill.types import ImageModel

Recompute = Callable[..., Any]
"""(block, *inputs) -> block(*inputs), with a graph that keeps the inputs only."""


class CheckpointedBlock(nn.Module):
    """A block of our own networks; it is checkpointed while `recompute` is set."""

    recompute: Recompute | None = None

    def __call__(self, *inputs: Any) -> Any:
        run = super().__call__
        if self.recompute is None or not torch.is_grad_enabled():
            return run(*inputs)
        return self.recompute(run, *inputs)


def recompute(block: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """Run a block by torch's non-reentrant checkpoint, which takes the settings.

    Gradients of any order and dropout stay the same. A block whose output a hook reads runs without a
    checkpoint: in the recomputation its hook would run again, and may leave it by an exception.
    """
    if isinstance(block, nn.Module) and block._forward_hooks:
        return block(*inputs)
    kernels = attention_kernels()

    def run(*inputs: Any) -> Any:
        # The kernels of the forward pass: R1, which restricts them, is over when the block is recomputed.
        with sdpa_kernel(kernels):
            return block(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False, **settings)


def attention_kernels() -> list[SDPBackend]:
    """Return the attention kernels that PyTorch may use now."""
    allowed = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, is_allowed in allowed.items() if is_allowed]


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
