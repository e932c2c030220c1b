"""Give networks that were built on the meta device their weights, without a whole copy on any device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import local, row_range

Network = TypeVar("Network", bound=nn.Module)

BASE_LAYER = ".base_layer."
"""Part of the names of weights that got adapters: `to_q.base_layer.weight` was `to_q.weight`."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of a tensor in a network: a parameter, a buffer, or a plain attribute such as positions."""

    name: str
    module: nn.Module
    key: str
    kind: Literal["parameter", "buffer", "attribute"]

    @property
    def tensor(self) -> Tensor:
        value = getattr(self.module, self.key)
        assert isinstance(value, Tensor)
        return value

    def put(self, tensor: Tensor) -> None:
        """Replace the tensor; a parameter stays as trainable as it was."""
        if self.kind == "parameter" and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=self.tensor.requires_grad)
        setattr(self.module, self.key, tensor)


def slots(network: nn.Module) -> Iterator[Slot]:
    """Yield the places of all tensors of a network; a tensor that is used twice comes twice."""
    for prefix, module in network.named_modules():
        start = f"{prefix}." if prefix else ""
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield Slot(start + key, module, key, "parameter")
        for key, buffer in module._buffers.items():
            if buffer is not None:
                yield Slot(start + key, module, key, "buffer")
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                yield Slot(start + key, module, key, "attribute")


def fill_from_main(network: nn.Module, source: nn.Module | None, processes: Processes) -> None:
    """Copy a whole network of the main process, tensor by tensor, into a network of the same structure.

    `source` is None on the other processes. Both parts of a pair have one name; `network` may be sharded,
    and on the meta device.
    """
    tensors = {} if source is None else {slot.name: slot.tensor for slot in slots(source)}
    done: dict[int, Tensor] = {}
    for slot in slots(network):
        target = slot.tensor
        if id(target) in done:
            slot.put(done[id(target)])
            continue
        whole = torch.empty(target.shape, dtype=target.dtype, device=processes.device)
        if processes.is_main:
            whole.copy_(tensors[slot.name].detach())
        processes.broadcast(whole)
        filled = _fill(target, _rows_of(whole, target, processes), processes.device)
        if filled is not target:
            slot.put(filled)
        done[id(target)] = slot.tensor
    network.to(processes.device)  # lets `fully_shard` look for the new tensors


def fill_from(network: nn.Module, origin: nn.Module, processes: Processes) -> None:
    """Give a network's tensors on the meta device the values of its origin's of the same name.

    A parameter that neither of them trains becomes the origin's own tensor: networks with adapters share
    their base. Adapters, and weights that began as random numbers, are not on the meta device.
    """
    known = {slot.name: slot.tensor for slot in slots(origin)}
    for slot in slots(network):
        target = slot.tensor
        if not target.is_meta:
            continue
        source = known[slot.name] if slot.name in known else known[slot.name.replace(BASE_LAYER, ".")]
        is_trained = target.requires_grad or source.requires_grad
        if slot.kind == "parameter" and not is_trained and source.dtype == target.dtype:
            slot.put(source)
        else:
            slot.put(_fill(target, local(source).detach(), processes.device))
    network.to(processes.device)


def copy_weights(network: nn.Module, source: nn.Module) -> None:
    """Copy the values of a network to one that is sharded in the same way."""
    pairs = zip(network.parameters(), source.parameters(), strict=True)
    with torch.no_grad():
        for target, value in pairs:
            if target is not value:
                local(target).copy_(local(value))


def unsharded_copy(structure: Network, network: nn.Module, processes: Processes) -> Network | None:
    """Gather a network on the CPU of the main process; the others return None.

    `structure`, a copy of the network as it was before it was sharded, gets the values and is returned.
    """
    for slot, sharded in zip(slots(structure), slots(network), strict=True):
        whole = processes.whole(sharded.tensor.detach())
        if processes.is_main:
            slot.put(whole.to("cpu", copy=True))
    return structure if processes.is_main else None


def whole_state(network: nn.Module, processes: Processes) -> dict[str, Tensor] | None:
    """Gather the state of a network on the CPU of the main process; the others return None."""
    state = {}
    for name, tensor in network.state_dict().items():
        whole = processes.whole(tensor.detach())
        if processes.is_main:
            state[name] = whole.cpu()
    return state if processes.is_main else None


def _rows_of(whole: Tensor, target: Tensor, processes: Processes) -> Tensor:
    """Return the rows of a tensor that this process holds of a sharded target."""
    if not isinstance(target, DTensor):
        return whole
    rows = row_range(len(whole), processes.shard_index, processes.shards)
    return whole[rows.start : rows.stop]


@torch.no_grad()
def _fill(target: Tensor, values: Tensor, device: torch.device) -> Tensor:
    """Copy values into a tensor's local part, or into a new one on the device if it has no memory."""
    if not target.is_meta:
        local(target).copy_(values)
        return target
    own = torch.empty(values.shape, dtype=target.dtype, device=device).copy_(values)
    if not isinstance(target, DTensor):
        return own
    return DTensor.from_local(
        own,
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )
