"""Preconditionings turn EDM's and EDM2's U-Nets F into denoisers D.

A preconditioning gives the four coefficients of D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et
al. 2022, eq. 7, table 1). All of them act on x = x_0 + sigma eps, also those of networks trained by the VP
and VE recipes of Song et al. 2021, whose own scaling of x is part of c_in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from distill.diffusion.schedules import EDM
from distill.networks.edm.backbone import Backbone, BackboneConfig
from distill.networks.sizes import depth_channels
from distill.types import Condition, Denoiser, Features, expand_like


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """c_skip, c_out, c_in and c_noise of each sample, (b,)."""

    skip: Float[Tensor, " b"]
    out: Float[Tensor, " b"]
    inner: Float[Tensor, " b"]
    noise: Float[Tensor, " b"]


Levels = Float[Tensor, " n"]
"""Discrete noise levels that a network was trained at, falling to 0."""


@runtime_checkable
class Preconditioning(Protocol):
    """Computes the coefficients at sigma, (b,), given the network's discrete levels if it has any.

    With `learns_variance` the network's output has twice the channels; the second half, a variance, is not
    used.
    """

    learns_variance: ClassVar[bool]

    def __call__(self, sigma: Float[Tensor, " b"], levels: Levels | None = None) -> Coefficients: ...


@dataclasses.dataclass(frozen=True)
class EDMPrecond:
    """Gives inputs and targets unit variance (Karras et al. 2022, table 1, last column)."""

    learns_variance: ClassVar[bool] = False
    sigma_data: float = 0.5

    def __call__(self, sigma: Float[Tensor, " b"], levels: Levels | None = None) -> Coefficients:
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / variance,
            sigma * self.sigma_data / variance.sqrt(),
            1 / variance.sqrt(),
            sigma.log() / 4,
        )


@dataclasses.dataclass(frozen=True)
class VPPrecond:
    """Wraps networks that predict eps at step (steps - 1) t of a variance-preserving process.

    Its noise rate is beta(t) = beta_min + beta_d t for t in [0, 1].
    """

    learns_variance: ClassVar[bool] = False
    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000

    def __call__(self, sigma: Float[Tensor, " b"], levels: Levels | None = None) -> Coefficients:
        # t solves sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.
        t = ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.steps - 1) * t)


@dataclasses.dataclass(frozen=True)
class VEPrecond:
    """Wraps networks that predict -eps of a variance-exploding process."""

    learns_variance: ClassVar[bool] = False

    def __call__(self, sigma: Float[Tensor, " b"], levels: Levels | None = None) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (0.5 * sigma).log())


MAX_STEPS = 100_000
"""A larger number of discrete levels is taken for a mistake: it may come from a file."""


@dataclasses.dataclass(frozen=True)
class IDDPMPrecond:
    """Wraps networks that predict eps and a variance at the discrete levels of improved DDPM, as ADM's do.

    The levels (Nichol and Dhariwal 2021) are u_steps = 0 and u_{j-1}^2 = (u_j^2 + 1)/max(abar_{j-1}/abar_j,
    c_1) - 1 with abar_j = sin^2(pi/2 j/(steps (c_2 + 1))) (Karras et al. 2022, table 1). Any sigma can be
    denoised; c_noise is the step, steps - 1 - j, of the nearest level. Numbers that give no levels raise
    ValueError.
    """

    learns_variance: ClassVar[bool] = True
    c_1: float = 0.001
    c_2: float = 0.008
    steps: int = 1000

    def __post_init__(self) -> None:
        if not (isinstance(self.steps, int) and 1 <= self.steps <= MAX_STEPS):
            raise ValueError(f"steps: expected a whole number from 1 to {MAX_STEPS}")
        if not (0 < self.c_1 < 1 and 0 <= self.c_2 < math.inf):
            raise ValueError("c_1, c_2: expected numbers in (0, 1) and from 0")

    def levels(self) -> Levels:
        """Return u_0, ..., u_steps in float32."""
        squared = [0.0]
        for j in range(self.steps, 0, -1):
            ratio = self._alpha_bar(j - 1) / self._alpha_bar(j)
            squared.append((squared[-1] + 1) / max(ratio, self.c_1) - 1)
        return torch.tensor([math.sqrt(value) for value in reversed(squared)])

    def __call__(self, sigma: Float[Tensor, " b"], levels: Levels | None = None) -> Coefficients:
        if levels is None:
            levels = self.levels().to(sigma)
        nearest = (sigma.detach()[:, None] - levels).abs().argmin(1)
        step = (self.steps - 1 - nearest).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), step)

    def _alpha_bar(self, j: int) -> float:
        return math.sin(math.pi / 2 * j / self.steps / (self.c_2 + 1)) ** 2


class Preconditioned(Denoiser):
    """A `Denoiser` that predicts x_0 at t = sigma (variance-exploding) by a preconditioned backbone.

    Its depths are the encoder's resolutions, such as "32" and "16", as the encoder leaves them, and
    "bottleneck". A network without labels ignores a condition's label; one with labels takes zeros for no
    label.
    """

    def __init__(self, sizes: BackboneConfig, precond: Preconditioning) -> None:
        super().__init__()
        self.sizes, self.precond = sizes, precond
        self.schedule = EDM()
        self.image_shape = (sizes.channels, sizes.resolution, sizes.resolution)
        self.label_count = sizes.label_count

    @property
    def backbone(self) -> Backbone:
        raise NotImplementedError

    @property
    def levels(self) -> Levels | None:
        """Discrete levels that it was trained at, or None if it was trained at all levels."""
        return None

    @property
    def depth_channels(self) -> dict[str, int]:
        return depth_channels(self.sizes.levels)

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, Features]: ...

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Condition,
        depths: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0 from x_t at noise level t = sigma; with `depths`, also return the features there."""
        c = self.precond(t, self.levels)
        embedding, hidden, skips, features = self._encode(x_t, c, cond)
        output = self.backbone.decode(hidden, skips, embedding)[:, : self.sizes.channels]
        x0 = expand_like(c.skip, x_t) * x_t + expand_like(c.out, x_t) * output
        return (x0, {depth: features[depth] for depth in depths}) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Return the features at `depths` only, at half the cost of a prediction."""
        features = self._encode(x_t, self.precond(t, self.levels), cond)[3]
        return {depth: features[depth] for depth in depths}

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1/c_out^2, which gives F's own error unit weight (Karras et al. 2022, eq. 8)."""
        return self.precond(t, self.levels).out ** -2

    def _encode(
        self, x_t: Tensor, c: Coefficients, cond: Condition
    ) -> tuple[Tensor, Tensor, list[Tensor], Features]:
        """Return the embedding of the condition, the bottleneck, the skip connections, and the features."""
        embedding = self.backbone.embed(c.noise, self._one_hot(cond, x_t))
        return embedding, *self.backbone.encode(expand_like(c.inner, x_t) * x_t, embedding)

    def _one_hot(self, cond: Condition, x_t: Tensor) -> Tensor | None:
        """Return one-hot labels, (b, label_count), zeros for no label; None for a network without labels."""
        if not self.label_count:
            return None
        if cond.label is None:
            return x_t.new_zeros(len(x_t), self.label_count)
        classes = torch.arange(self.label_count, device=x_t.device)
        return (cond.label[:, None] == classes).to(x_t.dtype)
