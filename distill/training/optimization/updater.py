"""The update of a network's parameters from their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.errors import TrainingError
from distill.training.optimization.settings import OptimizerSettings

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn


class Updater:
    """The optimiser of one network: accumulated gradients become an update, the same on every process."""

    def __init__(
        self, name: str, network: nn.Module, settings: OptimizerSettings, steps: int, accelerator: Accelerator
    ) -> None:
        import torch

        self.name, self.settings, self.steps, self.accelerator = name, settings, steps, accelerator
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
        # fused: one kernel instead of a loop over tensors
        self.optimizer = kind(
            self.parameters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def update(self, step: int) -> Tensor:
        """Average the gradients over processes, clip and apply them; returns their norm before clipping.

        Raises TrainingError if the norm is not finite, before anything is changed.
        """
        import torch

        if self.accelerator.num_processes > 1:
            self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad_norm or float("inf"))
        if not norm.isfinite():
            self.optimizer.zero_grad()
            raise TrainingError(
                f"step {step}: the norm of the {self.name}'s gradient is {norm.item()}; "
                "the last checkpoint is untouched"
            )
        if self.settings.clip_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, self.settings.clip_grad_value)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate(step, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _average_gradients(self) -> None:
        """Average the gradients over processes in one flat reduction.

        A wrapper of the network could not do it: a step calls a network in several ways (features alone,
        frozen, under no_grad), which wrappers that hook `forward` do not follow.
        """
        import torch

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.accelerator.reduce(flat, reduction="mean")
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, gradient in zip(self.parameters, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
