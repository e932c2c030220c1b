"""Activation checkpointing: on the way there a block's input alone is held, and on the way back the block runs once more (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from distill.types import ImageModel

Recompute = Callable[..., Any]
"""(block, *inputs) -> block(*inputs), with a graph that holds no more than the inputs."""


class CheckpointedBlock(nn.Module):
    """A block of our own networks, which can be checkpointed."""

    recompute: Recompute | None = None

    def __call__(self, *inputs: Any) -> Any:
        run = super().__call__
        return (
            run(*inputs)
            if self.recompute is None or not torch.is_grad_enabled()
            else self.recompute(run, *inputs)
        )


def recompute(block: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """By torch's checkpoint without reentrance, which takes the settings: the same gradients, of any order, and the same dropout.

    A block whose output is read by a hook runs as it is: the hook would be inside what runs again, and may leave it by an exception.
    """
    if getattr(block, "_forward_hooks", None):
        return block(*inputs)
    kernels = attention_kernels()

    def run(*inputs: Any) -> Any:
        with sdpa_kernel(
            kernels
        ):  # as now: the penalty R1, which restricts them, is long left when the block runs again
            return block(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False, **settings)


def attention_kernels() -> list[SDPBackend]:
    """The kernels of attention that are allowed now."""
    allowed = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, is_allowed in allowed.items() if is_allowed]


def checkpoint_activations(network: ImageModel, how: Recompute | None = recompute) -> None:
    """Checkpoint every block of a network, and of its autoencoder, that can be, or with None no more. Copies made later do as it does."""
    for module in checkpointable(network):
        if isinstance(module, CheckpointedBlock):
            module.recompute = how
        elif how is None:
            module.disable_gradient_checkpointing()
        else:
            module.enable_gradient_checkpointing(how)


def checkpointable(network: ImageModel) -> Iterator[Any]:
    """The blocks of our own in a network, and the networks of diffusers, which know their blocks themselves."""
    for part in (network, *network.frozen_components().values()):
        for module in part.modules():
            if isinstance(module, CheckpointedBlock) or getattr(
                module, "_supports_gradient_checkpointing", False
            ):
                yield module
