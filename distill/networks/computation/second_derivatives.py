"""Recompute blocks in penalties on gradients, which differentiate a network twice.

An ordinary checkpoint saves nothing there: the graph of the gradient keeps the recomputed activations. Here
the gradient of a block is an operation of its own, which keeps the block's inputs and the gradient of its
outputs, and is computed again when it is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten

Gradients = Sequence[Tensor | None]


def recompute_twice(run: Callable[..., Any], parameters: Sequence[Tensor], *inputs: Any) -> Any:
    """Return run(*inputs), whose graph and gradient's graph keep nothing but inputs and gradients.

    `parameters` are those that `run` reads. Dropout is the same in each computation. Results can be
    differentiated twice.
    """
    leaves, structure = tree_flatten(inputs)
    block = _Block(run, leaves, structure, parameters)
    outputs = _Forward.apply(block, *block.tensors_in(leaves), *block.parameters)
    return tree_unflatten(list(outputs), block.output_structure)


class _Block:
    """A block, its inputs that are no tensors, and the state of torch in which it was called."""

    output_structure: Any

    def __init__(
        self, run: Callable[..., Any], leaves: list[Any], structure: Any, parameters: Sequence[Tensor]
    ) -> None:
        self.run, self.structure = run, structure
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.positions = [row for row, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        device = leaves[self.positions[0]].device
        self.random = _RandomState(device)
        self.surroundings = _Surroundings(device)

    def tensors_in(self, leaves: list[Any]) -> list[Tensor]:
        return [leaves[row] for row in self.positions]

    def first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Compute the outputs for the first time."""
        with self.surroundings.of_the_first_time():
            return self._outputs(tensors)

    def again(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Compute the outputs as they were computed for the first time."""
        with self.random.restored(), self.surroundings.restored():
            return self._outputs(tensors)

    def gradients(
        self, inputs: Sequence[Tensor], outputs: Gradients, needed: Sequence[bool], create_graph: bool
    ) -> Gradients:
        """Return the gradients by those inputs and parameters that are needed, None for the others."""
        computed = self.again(inputs)
        sources = [source for source, needs in zip([*inputs, *self.parameters], needed, strict=True) if needs]
        targets = [(out, grad) for out, grad in zip(computed, outputs, strict=True) if out.requires_grad]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in targets],
                sources,
                [grad for _, grad in targets],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
        return [next(found) if needs else None for needs in needed]

    def _outputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        leaves = list(self.constants)
        for row, tensor in zip(self.positions, tensors, strict=True):
            leaves[row] = tensor
        outputs, self.output_structure = tree_flatten(self.run(*tree_unflatten(leaves, self.structure)))
        return outputs


class _Forward(torch.autograd.Function):
    """The outputs of a block, given its inputs and its parameters."""

    @staticmethod
    def forward(ctx: Any, block: _Block, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.block, ctx.needed = block, ctx.needs_input_grad[1:]
        ctx.save_for_backward(*tensors)
        return tuple(block.first(tensors[: len(block.positions)]))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        return None, *_Gradient.apply(ctx.block, ctx.needed, *ctx.saved_tensors, *outputs)


class _Gradient(torch.autograd.Function):
    """The gradients of a block, given its inputs, its parameters and the gradients of its outputs."""

    @staticmethod
    def forward(ctx: Any, block: _Block, needed: Sequence[bool], *tensors: Tensor) -> Any:
        ctx.block, ctx.needed = block, needed
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        inputs, outputs = _split(tensors, needed, block)
        with torch.enable_grad():
            return tuple(block.gradients(inputs, outputs, needed, create_graph=False))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor | None) -> Any:
        block, needed = ctx.block, ctx.needed
        inputs, outputs = _split(ctx.saved_tensors, needed, block)
        outputs = [gradient.requires_grad_(True) for gradient in outputs]
        with torch.enable_grad():
            gradients = block.gradients(inputs, outputs, needed, create_graph=True)
        sources = [*inputs, *block.parameters, *outputs]
        targets = [
            (gradient, change)
            for gradient, change in zip(gradients, changes, strict=True)
            if gradient is not None and change is not None and gradient.requires_grad
        ]
        wanted = [row for row, needs in enumerate(ctx.needs_input_grad[2:]) if needs]
        if not targets or not wanted:
            return None, None, *(None for _ in sources)
        found = torch.autograd.grad(
            [gradient for gradient, _ in targets],
            [sources[row] for row in wanted],
            [change for _, change in targets],
            allow_unused=True,
        )
        by_row = dict(zip(wanted, found, strict=True))
        return None, None, *(by_row.get(row) for row in range(len(sources)))


def _split(
    tensors: Sequence[Tensor], needed: Sequence[bool], block: _Block
) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and gradients of outputs, both without their graphs."""
    count = len(block.positions)
    inputs = [
        tensor.detach().requires_grad_(needs)
        for tensor, needs in zip(tensors[:count], needed[:count], strict=True)
    ]
    return inputs, [tensor.detach() for tensor in tensors[count + len(block.parameters) :]]


class _RandomState:
    """The random state of the CPU and a device, for equal masks of dropout."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.on_cpu = torch.get_rng_state()
        self.on_devices = [torch.cuda.get_rng_state(one) for one in self.devices]

    @contextmanager
    def restored(self) -> Iterator[None]:
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.on_cpu)
            for device, state in zip(self.devices, self.on_devices, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


class _Surroundings:
    """Autocast, kernels of attention and function modes in which a block is called."""

    def __init__(self, device: torch.device) -> None:
        self.kind = device.type
        self.has_autocast = torch.amp.autocast_mode.is_autocast_available(self.kind)
        self.autocast = self.has_autocast and torch.is_autocast_enabled(self.kind)
        self.dtype = torch.get_autocast_dtype(self.kind) if self.autocast else None
        self.kernels = attention_kernels()
        self.modes = list(_get_current_function_mode_stack())

    @contextmanager
    def of_the_first_time(self) -> Iterator[None]:
        """Keep autocast from caching casts, which have no graph here, for others to find."""
        with ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast(self.kind, self.dtype, cache_enabled=False))
            yield

    @contextmanager
    def restored(self) -> Iterator[None]:
        with ExitStack() as stack:
            for mode in self.modes[len(_get_current_function_mode_stack()) :]:
                stack.enter_context(mode)
            if self.has_autocast:
                stack.enter_context(
                    torch.autocast(self.kind, self.dtype, enabled=self.autocast, cache_enabled=False)
                )
            stack.enter_context(sdpa_kernel(self.kernels))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield


def attention_kernels() -> list[SDPBackend]:
    """Return the attention kernels that PyTorch may use now."""
    allowed = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, is_allowed in allowed.items() if is_allowed]
