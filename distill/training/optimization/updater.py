"""The update of a network's parameters from their gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.training.optimization.masters import Masters
from distill.training.optimization.settings import OptimizerSettings
from distill.training.parallel import buckets
from distill.training.parallel.buckets import GradientBuckets
from distill.training.parallel.shards import is_sharded

if TYPE_CHECKING:
    from distill.training.optimization.loss_scale import LossScale
    from distill.training.parallel.processes import Processes

MASTER = "master"
"""Name of a parameter's master among the tensors of its state."""


@dataclasses.dataclass(frozen=True)
class StatePart:
    """What this process holds of one tensor of an optimiser's state."""

    tensor: Tensor
    rows_of: Tensor | None = None
    """The sharded parameter whose rows on this process are those of the tensor. None: see `is_bound`."""
    is_bound: bool = False
    """True for 8-bit means of a sharded parameter, which only the same rows can use: those of a process with
    the same number among as many shards. Without it and `rows_of`, all processes hold the same tensor."""


class Updater:
    """The optimiser of one network: accumulated gradients become an update, the same on every process."""

    def __init__(
        self, name: str, network: nn.Module, settings: OptimizerSettings, steps: int, processes: Processes
    ) -> None:
        self.name, self.settings, self.steps, self.processes = name, settings, steps, processes
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.masters = Masters(self.parameters, settings.offload)
        self.weights = self.masters.weights
        """The parameters in at least float32, in order, for the average."""
        is_alone = name in ("teacher", "autoencoder")
        place = "optimizer" if is_alone else f"{name}.optimizer"
        self.optimizer = settings.build(self.masters.stepped, place)
        whole = {index: each for index, each in enumerate(self.parameters) if not is_sharded(each)}
        self.buckets: GradientBuckets | None = None
        if processes.count > 1 and whole:
            self.buckets = GradientBuckets(whole, processes, self.masters.move_gradients)

    def accumulate(self) -> None:
        """Add gradients to those before in float32. Call it after the backward pass of each micro-batch.

        Autograd adds up gradients in the type of their weights, where many small ones would be lost. For
        weights in float32 nothing is done.
        """
        self.masters.accumulate()

    @torch.no_grad()
    def update(self, step: int, scale: LossScale | None = None) -> Tensor:
        """Average the gradients over processes, clip and apply them; returns their norm before clipping.

        If the norm is not finite, weights and optimiser stay as they are. The norm is not read here, since
        that would wait for the device. `scale` is the one that the losses were multiplied by.
        """
        gradients = self._take_gradients()
        if not gradients:
            return torch.zeros((), device=self.masters.parts[0].device)
        if scale is not None:
            scale.unscale(list(gradients.values()))
        norm = self._norm(gradients)
        is_skipped = norm.isfinite().logical_not().float()
        if scale is not None:
            scale.note(is_skipped)
        self._clip(list(gradients.values()), norm)
        # The protocol of torch's GradScaler: the optimiser's kernels return at once where found_inf is 1.
        self.optimizer.found_inf = self.masters.give_gradients(gradients, is_skipped)  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate(step, self.steps)
        self.optimizer.step()
        self.masters.finish_step()
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """Return optimiser state and masters by name, such as `3.exp_avg` for the fourth parameter.

        Of sharded parameters they have this process's rows.
        """
        return {name: part.tensor for name, part in self.state_parts().items()}

    def state_parts(self) -> dict[str, StatePart]:
        """Return what `state_tensors` returns, and how processes share it."""
        parts: dict[str, StatePart] = {}
        for index, weight in enumerate(self.masters.stepped):
            for key, value in self.optimizer.state.get(weight, {}).items():
                parts[f"{index}.{key}"] = self.state_part(f"{index}.{key}", torch.as_tensor(value))
        for index in self.masters.reduced:
            parts[f"{index}.{MASTER}"] = self.state_part(f"{index}.{MASTER}", self.weights[index])
        return parts

    def state_part(self, name: str, tensor: Tensor) -> StatePart:
        """Return how processes share a tensor of the state with this name, which may be whole."""
        index, key = name.split(".", 1)
        parameter = self.parameters[int(index)]
        if not is_sharded(parameter) or tensor.ndim == 0:  # a count of updates has no dimensions
            return StatePart(tensor)
        if self.settings.is_8bit and key != MASTER:
            return StatePart(tensor, is_bound=True)
        return StatePart(tensor, rows_of=parameter)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_tensors` returned, after the network's own weights are loaded.

        Tensors of sharded parameters have this process's rows. The hyper-parameters stay those of the
        configuration. A state without masters starts them from the network's weights.
        """
        self.masters.reset()
        self.optimizer.state.clear()
        for name, tensor in tensors.items():
            index, key = name.split(".", 1)
            weight = self.masters.stepped[int(index)]
            if key == MASTER:
                weight.copy_(tensor)
            else:
                self.optimizer.state[weight][key] = _placed(tensor, weight)

    def _take_gradients(self) -> dict[int, Tensor]:
        """Take the gradients from the parameters, averaged over processes, by index and in order.

        Those of sharded parameters are averaged already, and are there on all processes or on none.
        """
        averaged = {} if self.buckets is None else self.buckets.finish()
        others = [index for index in range(len(self.parameters)) if index not in averaged]
        return dict(sorted({**averaged, **self.masters.take_gradients(others)}.items()))

    def _norm(self, gradients: Mapping[int, Tensor]) -> Tensor:
        """Return the norm of the whole network's gradient, which is the same on every process."""
        sharded = [gradient for index, gradient in gradients.items() if is_sharded(self.parameters[index])]
        if not sharded:
            return torch.nn.utils.get_total_norm(list(gradients.values()))
        # No process leaves this sum out: it has a gradient, perhaps without rows, where the others have one.
        square = self.processes.sum_over_shards(torch.nn.utils.get_total_norm(sharded).square())
        whole = [gradient for index, gradient in gradients.items() if not is_sharded(self.parameters[index])]
        if whole:
            square = square + torch.nn.utils.get_total_norm(whole).square()
        return square.sqrt()

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        """Clip by norm, then by value, as `torch.nn.utils` does for tensors that have a gradient."""
        largest = self.settings.clip_grad_value
        if self.settings.clip_grad_norm is not None:
            factor = (self.settings.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        if largest is not None:
            torch._foreach_clamp_min_(gradients, -largest)
            torch._foreach_clamp_max_(gradients, largest)


def expect_last_backward(updaters: Sequence[Updater]) -> None:
    """Average gradients while the backward pass that comes still runs, the last one before these updates.

    Gradients of the micro-batches before it are included. Without this call they are averaged afterwards.
    """
    buckets.expect_last_backward([each.buckets for each in updaters if each.buckets is not None])


def _placed(tensor: Tensor, weight: Tensor) -> Any:
    """Return a tensor of an optimiser's state on the weight's device, laid out in memory as the weight is.

    A whole number is a count that the host keeps.
    """
    if tensor.ndim == 0 and not tensor.is_floating_point():
        return int(tensor)
    if tensor.shape == weight.shape:
        return torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    return tensor.to(weight.device)
