"""Compile the repeated blocks of networks by torch.compile: fewer and larger kernels, in less time than whole
networks take to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from distill.networks.computation.activation_checkpointing import CheckpointedBlock
from distill.networks.mlp import Block as MLPBlock

BLOCKS = frozenset(
    {
        "AuraFlowJointTransformerBlock",
        "AuraFlowSingleTransformerBlock",
        "BasicTransformerBlock",
        "CogView4TransformerBlock",
        "HunyuanDiTBlock",
        "JointTransformerBlock",
        "Lumina2TransformerBlock",
        "ResnetBlock2D",
        "SanaTransformerBlock",
    }
)
"""Classes of diffusers that are compiled, in addition to those that its networks name themselves."""
INDUCTOR: dict[str, str | int | bool | Callable[..., Any]] = {"layout_optimization": False}
"""Options of torch's compiler. Its own choice of memory formats gave wrong gradients of our U-Net on a CPU
(torch 2.13); `channels_last` chooses one."""
GRAPHS, ALL_GRAPHS = 256, 4096
"""Graphs for one function, and for all: blocks of a class share theirs, with one for each shape and mode."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> int:
    """Compile the repeated blocks of a network when each first runs, and return how many it has.

    Names of weights stay the same. Copies of the network are not compiled. A block whose output a hook reads
    runs uncompiled, and so do all in `differentiating_twice`.
    """
    import torch._dynamo  # takes a second

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, GRAPHS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, ALL_GRAPHS)
    options = INDUCTOR if backend == "inductor" else None
    blocks = list(repeated_blocks(network))
    for block in blocks:
        # A graph for each shape: blocks of a class have several, so that dynamic ones would hold for none.
        compiled = torch.compile(block.forward, backend=backend, options=options, dynamic=False)
        if isinstance(block, FSDPModule):
            # Between the hooks that gather and free its weights.
            setattr(block, "forward", compiled)  # noqa: B010
        else:
            block._compiled_call_impl = _unless_hooked(block, compiled)
    return len(blocks)


def repeated_blocks(network: nn.Module) -> Iterator[Any]:
    """Yield the blocks of which a network has many, our own and those of diffusers."""
    names = set(BLOCKS)
    for module in network.modules():
        names.update(getattr(module, "_repeated_blocks", None) or ())
    for module in network.modules():
        if isinstance(module, (CheckpointedBlock, MLPBlock)) or type(module).__name__ in names:
            yield module


def _unless_hooked(block: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Return the call of a block: compiled, but for hooks that are there for one forward pass only."""

    def call(*inputs: Any, **settings: Any) -> Any:
        if block._forward_hooks:
            return block._call_impl(*inputs, **settings)
        return compiled(*inputs, **settings)

    return call
