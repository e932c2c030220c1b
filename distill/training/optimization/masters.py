"""The tensors that an optimiser steps: a network's parameters, or copies of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.training.parallel.shards import local, local_all


class Masters:
    """Holds float32 copies of parameters that are stored in fewer bits, so that small updates are not lost.

    Such a copy, the master, is what the optimiser steps; after each step it is rounded to the parameter. With
    `offload` every parameter has a copy, in the host's memory. Of a sharded parameter, this process's rows
    stand for the parameter, and there may be none.
    """

    def __init__(self, parameters: Sequence[Tensor], offload: bool = False) -> None:
        self.parameters = list(parameters)
        self.parts = local_all(self.parameters)
        """The parameters, or this process's rows of those that are sharded."""
        self.offload = offload
        self.stepped = [self._stepped(part) for part in self.parts]
        """The tensors that the optimiser steps, one for each parameter."""
        pairs = list(zip(self.parts, self.stepped, strict=True))
        self.weights = [copy if is_reduced(part) else part for part, copy in pairs]
        """The parts in at least float32: masters, or the parts themselves."""
        self.reduced = [index for index, part in enumerate(self.parts) if is_reduced(part)]
        """Indices of the parameters that have a master."""
        copied = [(part, copy) for part, copy in pairs if copy is not part]
        self._copied = [part for part, _ in copied]
        self._copies = [copy for _, copy in copied]
        whole = [(part, copy) for part, copy in copied if not is_reduced(part)]
        self._whole = [part for part, _ in whole]
        self._whole_copies = [copy for _, copy in whole]
        self._host_gradients = [_host_tensor(part) for part in self.parts] if offload else []
        self._sums: dict[int, Tensor] = {}
        """Gradients of parameters that have a master, by index, added up over micro-batches."""

    @torch.no_grad()
    def reset(self) -> None:
        """Take over the parameters' values."""
        copy_all(self._copies, self._copied)

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the gradients that are in fewer bits to sums in float32, and free them."""
        gradients = {index: self.parameters[index].grad for index in self.reduced}
        given = {index: local(gradient) for index, gradient in gradients.items() if gradient is not None}
        wide = {index: torch.empty_like(given[index], dtype=torch.float32) for index in given}
        copy_all(list(wide.values()), list(given.values()))
        added = [index for index in wide if index in self._sums]
        if added:
            torch._foreach_add_([self._sums[index] for index in added], [wide[index] for index in added])
        self._sums = {**wide, **self._sums}
        for index in given:
            self.parameters[index].grad = None

    def take_gradients(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """Take the gradients from those of these parameters that have one, in at least float32, by index."""
        self.accumulate()
        taken: dict[int, Tensor] = {}
        for index in indices:
            parameter = self.parameters[index]
            gradient = self._sums.pop(index, parameter.grad)
            if gradient is not None:
                taken[index] = local(gradient)
            parameter.grad = None
        return taken

    @torch.no_grad()
    def move_gradients(self, indices: Sequence[int], targets: Sequence[Tensor]) -> None:
        """Move the gradients of these parameters to tensors in at least float32, which hold zeros.

        The tensors of parameters without a gradient stay zero.
        """
        gradients = [self.parameters[index].grad for index in indices]
        pairs = zip(targets, gradients, strict=True)
        given = [(target, gradient) for target, gradient in pairs if gradient is not None]
        copy_all([target for target, _ in given], [gradient for _, gradient in given])
        by_index = dict(zip(indices, targets, strict=True))
        added = [index for index in indices if index in self._sums]
        if added:
            sums = [self._sums.pop(index) for index in added]
            torch._foreach_add_([by_index[index] for index in added], sums)
        for index in indices:
            self.parameters[index].grad = None

    def give_gradients(self, gradients: dict[int, Tensor], flag: Tensor) -> Tensor:
        """Give gradients to the stepped tensors; returns the flag where the optimiser steps."""
        if self.offload:
            host = {index: self._host_gradients[index] for index in gradients}
            copy_all(list(host.values()), list(gradients.values()), non_blocking=True)
            # A network may change its weights itself, as EDM2 does: the device has the newest.
            copy_all(self._whole_copies, self._whole, non_blocking=True)
            flag = flag.to("cpu")  # waits for the device, and so for the copies before it
            gradients = host
        for index, gradient in gradients.items():
            self.stepped[index].grad = gradient
        return flag

    def finish_step(self) -> None:
        """Copy the stepped tensors to the parameters and let go of the gradients."""
        copy_all(self._copied, self._copies, non_blocking=True)
        for tensor in self.stepped:
            tensor.grad = None

    @torch.no_grad()
    def move_towards(self, weights: Sequence[Tensor], share: float) -> None:
        """Move the parameters by a share of the way to other weights, one for each, in at least float32."""
        torch._foreach_lerp_(self.weights, matched(weights, self.weights), share)
        masters = [self.weights[index] for index in self.reduced]
        copy_all([self.parts[index] for index in self.reduced], masters, non_blocking=True)

    def _stepped(self, part: Tensor) -> Tensor:
        if self.offload:
            return _host_tensor(part).copy_(part.detach())
        return part.detach().float() if is_reduced(part) else part


def is_reduced(tensor: Tensor) -> bool:
    """Return whether a tensor has less than the precision of float32."""
    return torch.finfo(tensor.dtype).bits < 32


def copy_all(targets: list[Tensor], sources: list[Tensor], non_blocking: bool = False) -> None:
    """Copy tensors to others of the same shapes; torch refuses empty lists."""
    if targets:
        torch._foreach_copy_(targets, sources, non_blocking=non_blocking)


def matched(weights: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights in the types and on the devices of their targets."""
    return [weight.to(target) for weight, target in zip(weights, targets, strict=True)]


def _host_tensor(part: Tensor) -> Tensor:
    """Make a tensor for a parameter in the host's memory, of at least float32, pinned if copied to a GPU."""
    dtype = torch.promote_types(part.dtype, torch.float32)
    is_pinned = part.is_cuda
    return torch.empty_like(part, dtype=dtype, device="cpu", pin_memory=is_pinned, requires_grad=False)
