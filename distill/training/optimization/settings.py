"""Settings of an optimiser and its learning rate, which is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.config.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running mean, per update."""


class OptimizerSettings(Settings):
    """Adam or AdamW, with a warm-up and a decay of the learning rate."""

    name: Literal["adam", "adamw", "adam8bit", "adamw8bit"] = "adam"
    """Kind of optimiser: `adam`, or `adamw`, whose weight decay is decoupled from the gradient. `adam8bit`
    and `adamw8bit` store the running means in 8 bits, which takes 2 bytes for each parameter instead of 8
    and makes updates less exact. They need bitsandbytes: `pip install '.[optimizers]'`."""
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
    """Fraction of the run after which the learning rate falls to zero, at the end of the run. 1 keeps it
    constant after the warm-up, and such a run may be made longer. 0 decays over the whole run."""
    decay: Literal["linear", "cosine"] = "linear"
    """Course of the fall: a straight line, or half a period of a cosine, which falls slowly at first and at
    the end. A cosine never begins before the warm-up is over; with `decay_from: 0` it is the `cosine`
    schedule of diffusers and transformers."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Maximum norm of the gradient of all parameters, which is scaled down to it. null does not clip."""
    clip_grad_value: float | None = Field(None, gt=0)
    """Maximum magnitude of each element of the gradient, applied after `clip_grad_norm`, as for SiDA's fake
    score. null does not clip."""
    offload: bool = False
    """Keep the running means in the host's memory and make the updates there. This frees 8 bytes of each
    trained parameter on the device, 12 with `precision: bf16-true`, and makes updates slower: gradients and
    weights are copied between host and device. It goes with `adam` and `adamw`."""

    @model_validator(mode="after")
    def _offload_fits(self) -> OptimizerSettings:
        if self.offload and self.is_8bit:
            raise ValueError(f"offload: true does not go with {self.name}; expected name: adam or adamw")
        return self

    @model_validator(mode="after")
    def _cosine_has_a_course(self) -> OptimizerSettings:
        if self.decay == "cosine" and self.decay_from == 1:
            raise ValueError(
                "decay: cosine is given, and decay_from is 1, which keeps the rate constant; expected less, "
                "such as decay_from: 0 for the whole run"
            )
        return self

    @property
    def is_8bit(self) -> bool:
        return self.name.endswith("8bit")

    def build(self, weights: Sequence[Tensor], place: str = "optimizer") -> Optimizer:
        """Build the optimiser of these weights; `place` is the name of these settings in messages."""
        import torch

        hyper: dict[str, Any] = {
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }
        if self.is_8bit:
            from distill.training.optimization.eight_bit import Adam8bit, check_kernels

            check_kernels(self.name, weights[0].device, place)
            return Adam8bit(weights, decoupled=self.name == "adamw8bit", **hyper)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.name]
        # fused: one kernel instead of a loop over tensors
        return kind(weights, fused=True, **hyper)

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the learning rate of update `step` (from 0) of `steps`."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        start = self._decay_start(steps)
        if step < start:
            return self.lr * warmup
        length = max(1.0, steps - start)
        if self.decay == "cosine":
            return self.lr * warmup * (0.5 + 0.5 * math.cos(math.pi * (step - start) / length))
        return self.lr * warmup * ((steps - step) / length)

    def _decay_start(self, steps: int) -> float:
        """Return the step, or a fraction of one, at which the fall begins in a run of so many steps."""
        start = self.decay_from * steps
        return max(start, self.warmup_steps) if self.decay == "cosine" else start

    def describe_rate(self, steps: int) -> str:
        """Describe the learning rate of a run of so many steps, such as `0.0003, constant`."""
        parts = [f"{self.lr:g}"]
        if self.warmup_steps:
            parts.append(f"warm-up over {self.warmup_steps} steps")
        start = self._decay_start(steps)
        if start >= steps:
            return ", ".join([*parts, "constant"])
        return ", ".join([*parts, f"{self.decay} decay to 0 from step {math.ceil(start)} to {steps}"])
