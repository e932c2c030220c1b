"""The update of a network's parameters from their gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.training.optimization.masters import Masters
from distill.training.optimization.settings import OptimizerSettings
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
        self.optimizer = settings.build(
            self.masters.stepped, "optimizer" if name == "teacher" else f"{name}.optimizer"
        )

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
        has_others = self.processes.count > 1
        # Other processes may have the gradients that this one lacks.
        indices, gradients = self.masters.take_gradients(of_all=has_others)
        if not gradients:
            return torch.zeros((), device=self.weights[0].device)
        if has_others:
            self._average(gradients)
        if scale is not None:
            scale.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        is_skipped = norm.isfinite().logical_not().float()
        if scale is not None:
            scale.note(is_skipped)
        self._clip(gradients, norm)
        # The protocol of torch's GradScaler: the optimiser's kernels return at once where found_inf is 1.
        self.optimizer.found_inf = self.masters.give_gradients(indices, gradients, is_skipped)  # type: ignore[attr-defined]
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
                parts[f"{index}.{key}"] = self._state_part(index, torch.as_tensor(value))
        for index in self.masters.reduced:
            parts[f"{index}.{MASTER}"] = self._state_part(index, self.weights[index], is_master=True)
        return parts

    def _state_part(self, index: int, tensor: Tensor, is_master: bool = False) -> StatePart:
        parameter = self.parameters[index]
        if not is_sharded(parameter) or tensor.ndim == 0:  # a count of updates has no dimensions
            return StatePart(tensor)
        if self.settings.is_8bit and not is_master:
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

    def _average(self, gradients: list[Tensor]) -> None:
        """Average the gradients over processes in one flat reduction.

        A wrapper of the network could not do it: a step calls a network in several ways (features alone,
        frozen, under no_grad), which wrappers that hook `forward` do not follow.
        """
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.processes.mean(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        # Into the gradients' own memory: the optimiser wants it laid out as the weights' is.
        torch._foreach_copy_(
            gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        )

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        """Clip by norm, then by value, as `torch.nn.utils` does for tensors that have a gradient."""
        largest = self.settings.clip_grad_value
        if self.settings.clip_grad_norm is not None:
            factor = (self.settings.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        if largest is not None:
            torch._foreach_clamp_min_(gradients, -largest)
            torch._foreach_clamp_max_(gradients, largest)


def _placed(tensor: Tensor, weight: Tensor) -> Any:
    """Return a tensor of an optimiser's state on the weight's device, laid out in memory as the weight is.

    A whole number is a count that the host keeps.
    """
    if tensor.ndim == 0 and not tensor.is_floating_point():
        return int(tensor)
    if tensor.shape == weight.shape:
        return torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    return tensor.to(weight.device)
