"""A Gaussian mixture whose density, score and prediction of x_0 are known exactly at every noise level."""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from distill.types import Condition, Denoiser, NoiseSchedule, expand_like


class GaussianMixture(Denoiser):
    """The mixture sum_k w_k N(mean_k, A_k diag(variance_k) A_k^T) of vectors of d elements, as a `Denoiser`.

    The weights (k,) are normalised. `axes` holds the orthonormal A_k, (k, d, d); the default is the identity.
    With `labels`, (k,), each in [0, label_count), a condition selects the components with its label. It has
    no parameters: there is nothing to train.
    """

    def __init__(
        self,
        weights: Float[Tensor, " k"],
        means: Float[Tensor, "k d"],
        variances: Float[Tensor, "k d"],
        schedule: NoiseSchedule,
        axes: Float[Tensor, "k d d"] | None = None,
        labels: Int64[Tensor, " k"] | None = None,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.image_shape = (means.shape[1],)
        self.label_count = 0 if labels is None else int(labels.max()) + 1
        self.log_weights: Tensor
        self.means: Tensor
        self.variances: Tensor
        self.axes: Tensor | None
        self.labels: Tensor | None
        self.register_buffer("log_weights", weights.log().log_softmax(0))
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)
        self.register_buffer("labels", labels)

    @property
    def depth_channels(self) -> dict[str, int]:
        """Return none: it has no features."""
        return {}

    def forward(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b d"]:
        """Return E[x_0 | x_t], the components' predictions averaged by their responsibilities."""
        at_x_t = self._components(x_t, t, cond)
        shift = at_x_t.alpha * self.variances / at_x_t.variance * at_x_t.centred
        x0 = self.means + self._from_axes(shift)
        return torch.einsum("bk,bkd->bd", at_x_t.log_joint.softmax(1), x0)

    def log_density(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, " b"]:
        """Return log p_t(x_t) in nats."""
        return self._components(x_t, t, cond).log_joint.logsumexp(1)

    def responsibilities(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b k"]:
        """Return the posterior probability of each component."""
        return self._components(x_t, t, cond).log_joint.softmax(1)

    def draw(self, count: int, random: torch.Generator, cond: Condition) -> Float[Tensor, "n d"]:
        """Draw exact samples without noise."""
        component = torch.multinomial(self._log_weights(cond, count).exp(), 1, generator=random)[:, 0]
        noise = torch.randn(count, *self.image_shape, generator=random, dtype=self.means.dtype)
        deviation = self.variances[component].sqrt() * noise
        if self.axes is not None:
            deviation = torch.einsum("bde,be->bd", self.axes[component], deviation)
        return self.means[component] + deviation

    def _components(self, x_t: Tensor, t: Tensor, cond: Condition) -> _Components:
        alpha = expand_like(self.schedule.alpha(t), x_t[:, None])
        sigma = expand_like(self.schedule.sigma(t), x_t[:, None])
        variance = alpha**2 * self.variances + sigma**2
        centred = self._to_axes(x_t[:, None] - alpha * self.means)
        log_density = -(centred.square() / variance + (2 * math.pi * variance).log()).sum(2) / 2
        return _Components(self._log_weights(cond, len(x_t)) + log_density, centred, variance, alpha)

    def _to_axes(self, vectors: Tensor) -> Tensor:
        return vectors if self.axes is None else torch.einsum("kde,bkd->bke", self.axes, vectors)

    def _from_axes(self, vectors: Tensor) -> Tensor:
        return vectors if self.axes is None else torch.einsum("kde,bke->bkd", self.axes, vectors)

    def _log_weights(self, cond: Condition, count: int) -> Tensor:
        log_weights = self.log_weights.expand(count, -1)
        if self.labels is None or cond.label is None:
            return log_weights
        return log_weights.masked_fill(excluded(self.labels, cond.label), -math.inf).log_softmax(1)


def excluded(labels: Int64[Tensor, " k"], wanted: Int64[Tensor, " b"]) -> Bool[Tensor, "b k"]:
    """Mark the components that each label of a batch leaves out; the label -1 leaves out none."""
    return (labels != wanted[:, None]) & (wanted[:, None] >= 0)


@dataclasses.dataclass(frozen=True)
class _Components:
    """Quantities of each component at x_t.

    `log_joint` is the log of weight times density, (b, k). `centred`, x_t - alpha mean, and `variance` are
    along the component's axes, (b, k, d). alpha is (b, 1, 1).
    """

    log_joint: Tensor
    centred: Tensor
    variance: Tensor
    alpha: Tensor
