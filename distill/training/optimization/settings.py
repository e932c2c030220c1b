"""Settings of an optimiser and its learning rate, which is a pure function of the step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill.config.settings import Settings

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
