"""Optimisers and their learning rates, which are pure functions of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from distill.config.errors import TrainingError
from distill.config.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn


Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running mean, per update."""


class OptimizerSettings(Settings):
    """Adam or AdamW, with a warm-up and a final decay of the learning rate."""

    name: Literal["adam", "adamw"] = "adam"
    """Kind of optimiser: `adam`, or `adamw`, whose weight decay is decoupled from the gradient."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate between warm-up and decay. A larger one learns faster, up to where training fails."""
    betas: tuple[Decay, Decay] = (0.0, 0.999)
    """Decay rates of the running means of the gradient and of its square. The first is the momentum; 0, as in
    SiD and f-distill, has none. Training a teacher takes 0.9."""
    eps: float = Field(1e-8, gt=0)
    """Number added to the denominator of the update. A larger one shortens the updates of small gradients."""
    weight_decay: float = Field(0.0, ge=0)
    """Strength of the weight decay, which pulls weights towards zero; 0 has none. The papers' 1e-2 goes with
    `adamw`."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of the run, from its first, over which the learning rate rises linearly from zero. Those in
    `fake.warmup_steps` count too."""
    decay_from: float = Field(1.0, ge=0, le=1)
    """Fraction of the run after which the learning rate falls linearly to zero. 1 keeps it constant."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Maximum norm of the gradient of all parameters, which is scaled down to it. null does not clip."""
    clip_grad_value: float | None = Field(None, gt=0)
    """Maximum magnitude of each element of the gradient, applied after `clip_grad_norm`, as for SiDA's fake
    score. null does not clip."""

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the learning rate of update `step` (from 0) of `steps`."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        decay_start = self.decay_from * steps
        decay = 1.0 if step < decay_start else (steps - step) / max(1.0, steps - decay_start)
        return self.lr * warmup * decay


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
