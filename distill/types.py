"""The types at the boundaries of the rooms: conditions, denoisers, generators, scores and losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.schedules import NoiseSchedule

Features = dict[str, Tensor]
"""A network's hidden activations by the name of their depth, each (b, channels, ...)."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a batch is conditioned on. `label` holds class indices in [0, label_count); -1, or None for a whole batch, means unconditional."""

    label: Int64[Tensor, " b"] | None = None

    def and_none(self) -> Condition:
        """The batch's condition, and then as many rows without one: both sides of a guided prediction. Raises ValueError where there is none."""
        if self.label is None:
            raise ValueError("guidance: needs a condition; found none")
        return Condition(torch.cat([self.label, torch.full_like(self.label, -1)]))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return Condition(None if self.label is None else self.label[rows])

    def to(self, device: torch.device | str) -> Condition:
        return Condition(None if self.label is None else self.label.to(device))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Unit noise z, (b, *image_shape), and the image x of the same shape that the teacher's many-step sampler makes of it under `cond`."""

    z: Float[Tensor, "b ..."]
    cond: Condition
    x: Float[Tensor, "b ..."]

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        return Pairs(self.z[rows], self.cond[rows], self.x[rows])

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(self.z.to(device), self.cond.to(device), self.x.to(device))


class Denoiser(nn.Module):
    """A network that predicts x_0 from x_t = alpha(t) x_0 + sigma(t) eps. Teacher and fake score are two, and a generator is one at its entry.

    Called with x_t (b, *image_shape), t (b,) and a condition. With `depths` it also returns its features at the depths of those names.
    """

    schedule: NoiseSchedule
    image_shape: tuple[int, ...]
    label_count: int

    @property
    def depth_channels(self) -> dict[str, int]:
        """Names of the depths that features may be asked for, and the channels of each."""
        raise NotImplementedError

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """The features at these depths alone, at less cost than a prediction."""
        raise NotImplementedError

    def target_weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of x_0, (b,), under which the network's own training target counts equally at every level."""
        raise NotImplementedError


class Critic(nn.Module):
    """Features -> logit, (b,), of log p_t/q_t. `reads` names the network whose features it takes, "teacher" or "fake", at `depths`."""

    reads: str

    @property
    def depths(self) -> Sequence[str]:
        raise NotImplementedError


class Generator(nn.Module):
    """One-step generator: (z, cond) -> x_0 in one network evaluation, z ~ N(0, I) of shape (b, *image_shape)."""

    image_shape: tuple[int, ...]
    label_count: int


@dataclasses.dataclass(frozen=True)
class Scores:
    """Everything an objective may look at, for a batch of student samples noised to levels t.

    `x0` and `x_t` are (b, ...); `alpha` and `sigma` are (b, 1, ...) and broadcast against them; `teacher` and `fake` are the two
    predictions of x_0 at x_t; `log_ratio` is log p_t/q_t at x_t, (b,), zero where the objective needs none.
    """

    x0: Float[Tensor, "b ..."]
    x_t: Float[Tensor, "b ..."]
    alpha: Float[Tensor, "b ..."]
    sigma: Float[Tensor, "b ..."]
    teacher: Float[Tensor, "b ..."]
    fake: Float[Tensor, "b ..."]
    log_ratio: Float[Tensor, " b"]


@dataclasses.dataclass(frozen=True)
class LossOutput:
    """A loss per sample, and detached tensors worth logging (their means are logged)."""

    loss: Float[Tensor, " b"]
    metrics: dict[str, Tensor] = dataclasses.field(default_factory=dict)


Objective = Callable[[Scores], LossOutput]
