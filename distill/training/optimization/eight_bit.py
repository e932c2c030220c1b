"""Adam with running means of 8 bits (Dettmers et al. 2022), by the kernels of bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.config.errors import UserError, first_line

BLOCK = 256
"""Elements that share a scale."""
SMALLEST = 4096
"""Smaller tensors keep running means in float32, as in the library's own class: they take little memory."""


class Adam8bit(torch.optim.Optimizer):
    """Adam, or AdamW if `decoupled`, for weights in float32.

    The library's class waits for the device after each tensor, which this one does not. Its kernels know no
    `found_inf`: each update is made, and taken back on the device where `found_inf` is 1. Only the count of
    updates, which the host keeps, counts it nevertheless.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(weights, {**hyper, "decoupled": decoupled})
        self.found_inf: Tensor | None = None
        self.maps = _quantisation_maps(weights[0].device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group)

    def _step(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(_new_state(weight))
        state["step"] += 1
        if not weight.numel():  # this process has no rows of a small weight
            return
        flat, gradient = _flat(weight), _flat(_laid_out_as(weight, gradient))
        changed = [flat, *(value for value in state.values() if isinstance(value, Tensor))]
        if self.found_inf is None:
            self._call_kernel(flat, gradient, state, group)
            return
        is_bad = self.found_inf.bool()
        before = [tensor.clone() for tensor in changed]
        self._call_kernel(flat, torch.where(is_bad, 0.0, gradient), state, group)
        for tensor, old in zip(changed, before, strict=True):
            torch.where(is_bad, old, tensor, out=tensor)

    def _call_kernel(
        self, flat: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        from bitsandbytes import functional

        decay = group["weight_decay"]
        if decay and not group["decoupled"]:
            gradient = gradient.add(flat, alpha=decay)
        beta1, beta2 = group["betas"]
        given = {
            "optimizer_name": "adam",
            "g": gradient,
            "p": flat,
            "state1": state["state1"],
            "state2": state["state2"],
            "beta1": beta1,
            "beta2": beta2,
            "beta3": 0.0,
            "alpha": 0.0,
            "eps": group["eps"],
            "step": state["step"],
            "lr": group["lr"],
            "weight_decay": decay if group["decoupled"] else 0.0,
        }
        if "absmax1" not in state:
            functional.optimizer_update_32bit(**given)
            return
        scales = {"absmax1": state["absmax1"], "absmax2": state["absmax2"]}
        qmap1, qmap2 = self.maps
        functional.optimizer_update_8bit_blockwise(**given, **scales, qmap1=qmap1, qmap2=qmap2)


def check_kernels(name: str, device: torch.device, place: str = "optimizer") -> None:
    """Check that bitsandbytes is there and has kernels for the device, by updates of scratch weights."""
    try:
        for count in (1, SMALLEST):
            weight = torch.zeros(count, device=device)
            weight.grad = torch.ones_like(weight)
            Adam8bit([weight], 1e-3, (0.9, 0.999), 1e-8, 0.0, decoupled=False).step()
    except ImportError as error:
        raise UserError(
            f"{place}.name: {name} needs bitsandbytes, which is not installed; "
            "expected it from pip install '.[optimizers]'"
        ) from error
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"{place}.name: bitsandbytes has no kernels of {name} for {device.type} here "
            f"({first_line(error):.100}); expected {name.removesuffix('8bit')}"
        ) from error


def _quantisation_maps(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the numbers that 8 bits stand for, with a sign for the mean and without for the square."""
    from bitsandbytes import functional

    signed, unsigned = (functional.create_dynamic_map(signed=signed).to(device) for signed in (True, False))
    return signed, unsigned


def _new_state(weight: Tensor) -> dict[str, Any]:
    count, device = weight.numel(), weight.device
    if count < SMALLEST:
        means = {name: torch.zeros(count, device=device) for name in ("state1", "state2")}
        return {"step": 0, **means}
    codes = {name: torch.zeros(count, dtype=torch.uint8, device=device) for name in ("state1", "state2")}
    scales = {name: torch.zeros(-(-count // BLOCK), device=device) for name in ("absmax1", "absmax2")}
    return {"step": 0, **codes, **scales}


def _laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient whose order in memory is the weight's: the kernels read memory as it lies."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def _flat(tensor: Tensor) -> Tensor:
    """Return a tensor's elements in the order of its memory, which has no gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))
