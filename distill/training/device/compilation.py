"""Compile what a run computes: the blocks of its networks, or its losses as wholes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, cast

import torch
import torch._functorch.config
from torch import nn

from distill.networks.computation.compilation import INDUCTOR, compile_blocks
from distill.types import Penalty

Function = TypeVar("Function", bound=Callable[..., object])
MAX_VARIANTS = 64
"""Compiled forms of a function; few-step students have one for each number of steps and size of batch."""
Compile = Literal["none", "blocks", "step"]


def compiled(function: Function, compile_: Compile, device: torch.device) -> Function:
    """Return a function that `compile: step` compiles; with another choice it stays as it is.

    On a GPU each call replays CUDA graphs, forward and backward, instead of launching kernel after kernel.
    """
    if compile_ != "step":
        return function
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    options: dict[str, str | int | bool | Callable[..., object]] = {
        **INDUCTOR,
        "triton.cudagraphs": device.type == "cuda",
    }
    # A graph for each shape, whose inputs are tensors alone: CUDA graphs are recorded anew for other numbers.
    return cast(Function, torch.compile(function, options=options, dynamic=False))


def compile_networks(networks: Sequence[nn.Module], compile_: Compile) -> None:
    """Compile the repeated blocks of networks for `compile: blocks`."""
    if compile_ == "blocks":
        # A backward pass that is repeated, for the sizes of gradients, needs its buffers again.
        torch._functorch.config.donated_buffer = False
        for network in networks:
            compile_blocks(network)


def begin_step(compile_: Compile) -> None:
    """Say that nothing reads the results of the step before, whose memory CUDA graphs may use again."""
    if compile_ == "step":
        torch.compiler.cudagraph_mark_step_begin()


def uncompiled(penalty: Penalty | None) -> Penalty | None:
    """Return a penalty that compiled losses leave as it is: a compiled graph is differentiated only once."""
    return None if penalty is None else torch.compiler.disable(penalty)
