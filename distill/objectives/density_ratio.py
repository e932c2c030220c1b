"""The density ratio r = p_t/q_t of teacher to student, from a discriminator's logits.

`ratio(logits, u)` returns the log-ratio of each sample and remembers nothing; `ratio.observe(logits, u)`
records a micro-batch, and `ratio.commit(reduce)` takes what was recorded into the running means at the end of
a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from distill.divergences import Divergence
from distill.types import per_sample

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class RunningMean(nn.Module):
    """Exponentially weighted means in bins.

    They do not depend on how a batch is split into processes or micro-batches. Values only count after
    `commit`, so every sample of a step is normalised by the means of the steps before it. The mean of an
    empty bin is 1.
    """

    def __init__(self, bins: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.total: Tensor
        self.pending: Tensor
        # Rows: the sum of values and their count.
        self.register_buffer("total", torch.zeros(2, bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(2, bins, dtype=torch.float64), persistent=False)

    def add(self, values: Float[Tensor, " b"], bins: Int64[Tensor, " b"]) -> None:
        """Record a micro-batch until `commit`."""
        # A sum over rows, because CUDA adds rows in a fixed order; the order of index_add_ depends on its
        # threads.
        member = bins[:, None] == torch.arange(self.pending.shape[1], device=bins.device)
        # where instead of a product, because 0 times an infinite value is not 0.
        self.pending[0] += torch.where(member, values.detach().double()[:, None], 0.0).sum(0)
        self.pending[1] += member.sum(0)

    def commit(self, reduce: Reduce) -> None:
        """Take what was added, summed over processes, into the means."""
        self.total.mul_(self.decay).add_(reduce(self.pending))
        self.pending.zero_()

    def mean(self) -> Float[Tensor, " bins"]:
        """Return the mean of each bin, in float64."""
        total, count = self.total
        return torch.where(count > 0, total / count.clamp_min(torch.finfo(count.dtype).tiny), 1.0)


class BatchLossRatio(nn.Module):
    """The density ratio of Uni-Instruct's published code: one constant, exp(GAN loss / elements of an image).

    The GAN loss softplus(-logit), about ln 2 if the discriminator cannot tell real from student samples, is
    averaged over the batch and divided by the elements of an image, as every loss of that code is. At 32x32
    the ratio is then 1.000226 most of the time. The loss is that of the step before, so that it does not
    depend on how a batch is split. The formula is inferred from the range in which the code's ratio was
    observed, 1.000001 to 1.0002.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = RunningMean(1, decay=0.0)

    def forward(
        self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"], elements: int
    ) -> Float[Tensor, " b"]:
        """Return the log-ratio of samples with `elements` elements, (b,), all equal; 0 in the first step."""
        known = self.loss.total[1, 0] > 0
        log_ratio = torch.where(known, self.loss.mean()[0] / elements, 0.0)
        return log_ratio.to(u).expand(len(u))

    def observe(self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"]) -> None:
        """Record the GAN loss of a micro-batch until `commit`."""
        self.loss.add(per_sample(softplus(-logit.detach())), torch.zeros_like(u, dtype=torch.int64))

    @property
    def scale(self) -> Tensor:
        """The factor of the objective's weights: 1, because they are not normalised."""
        return self.loss.total.new_ones((), dtype=torch.float32)

    @property
    def scale_of_one(self) -> float:
        """The factor if all ratios are 1: also 1."""
        return 1.0

    def commit(self, reduce: Reduce) -> None:
        """Make the recorded loss that of the next step."""
        self.loss.commit(reduce)


class DensityRatio(nn.Module):
    """Turns logits into a clamped log-ratio whose r has mean one in every bin of noise levels.

    E_q[r] = 1 holds for the true ratio at every level; dividing by the running mean restores it. Bins are
    quantiles of the noise level, so each receives the same number of samples. `scale` is one over the running
    mean of h(r), which gives the objective the same size for all divergences, and so the same balance with
    other terms.
    """

    def __init__(
        self,
        divergence: Divergence,
        low: float = 0.1,
        high: float = 20.0,
        bins: int = 10,
        decay: float = 0.99,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.divergence = divergence
        self.low, self.high = low, high
        self.bins = bins
        self.normalise = normalise
        self.scale_of_one = 1 / float(divergence.h(torch.zeros(()))) if normalise else 1.0
        """The factor if all ratios are 1: 1/h(1), or 1 if weights are not normalised."""
        self.r_mean = RunningMean(bins, decay)
        self.h_mean = RunningMean(1, decay)

    def forward(
        self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"], elements: int = 1
    ) -> Float[Tensor, " b"]:
        """Return the log-ratio of samples at the noise levels of quantiles u, (b,), without a graph.

        A sample with a logit for each position has their mean as its logit. `elements` does not matter here.
        """
        r = self._clamped(logit)
        if not self.normalise:
            return r.log()
        return (r / self.r_mean.mean()[self._bins_of(u)].to(r.dtype)).log()

    def observe(self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"]) -> None:
        """Record the ratios of a micro-batch and their h until `commit`."""
        if not self.normalise:
            return
        bins = self._bins_of(u)
        self.r_mean.add(self._clamped(logit), bins)
        self.h_mean.add(self.divergence.h(self(logit, u)), torch.zeros_like(bins))

    @property
    def scale(self) -> Tensor:
        """The factor of the objective's weights: one over the running mean of h, a scalar.

        It is 1 if weights are not normalised, since nothing is recorded then.
        """
        return 1 / self.h_mean.mean()[0].float()

    def commit(self, reduce: Reduce) -> None:
        """Take the recorded samples, summed over processes, into the running means."""
        self.r_mean.commit(reduce)
        self.h_mean.commit(reduce)

    def _clamped(self, logit: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        return per_sample(logit.detach()).exp().clamp(self.low, self.high)

    def _bins_of(self, u: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
        return (u * self.bins).long().clamp_max(self.bins - 1)
