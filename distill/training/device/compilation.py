"""Compile a run's losses as wholes, for `compile: step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch

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
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    return torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None)


def begin_step(compile_: Compile) -> None:
    """Say that nothing reads the results of the step before, whose memory CUDA graphs may use again."""
    if compile_ == "step":
        torch.compiler.cudagraph_mark_step_begin()


def uncompiled(penalty: Penalty | None) -> Penalty | None:
    """Return a penalty that compiled losses leave as it is: a compiled graph is differentiated only once."""
    return None if penalty is None else torch.compiler.disable(penalty)
