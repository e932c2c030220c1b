"""The density ratio r = p_t/q_t of teacher to student: clamping and running normalisation of its logarithm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from distill.divergences import Divergence
from distill.types import per_sample

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class RunningMean(nn.Module):
    """Exponentially weighted means in bins, the same however a batch is split into processes or micro-batches.

    Values only count after `commit`, so every sample of a step is normalised by the means of the steps before it. An empty bin's mean is 1.
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
        """Remember a micro-batch until `commit`."""
        # A sum over rows, which CUDA adds in a fixed order; index_add_ adds there in whatever order the threads come.
        member = one_hot(bins, self.pending.shape[1]).double()
        # Selected, not multiplied: 0 times an infinite value would not be 0.
        self.pending[0] += torch.where(member > 0, values.detach().double()[:, None], 0.0).sum(0)
        self.pending[1] += member.sum(0)

    def commit(self, reduce: Reduce) -> None:
        """Fold what was added, summed over processes, into the means."""
        self.total.mul_(self.decay).add_(reduce(self.pending))
        self.pending.zero_()

    def mean(self) -> Float[Tensor, " bins"]:
        total, count = self.total
        return torch.where(count > 0, total / count.clamp_min(torch.finfo(count.dtype).tiny), 1.0)


class BatchLossRatio(nn.Module):
    """The density ratio of Uni-Instruct's published code: one constant for all samples, exp(GAN loss / elements of an image).

    The GAN loss softplus(-logit), about ln 2 where the discriminator cannot tell, is averaged over the batch and divided by the elements of an
    image, as every loss of that code is; at 32x32 the ratio is then 1.000226 at most times. It is that of the step before, so that it does not
    depend on how a batch is split. Inferred from the range in which the code's ratio was observed, 1.000001 to 1.0002.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = RunningMean(1, decay=0.0)

    def forward(
        self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"], elements: int
    ) -> Float[Tensor, " b"]:
        """The same log-ratio for each sample of `elements` elements; 0 in the first step."""
        known = self.loss.total[1, 0] > 0
        log_ratio = torch.where(known, self.loss.mean()[0] / elements, 0.0)
        self.loss.add(per_sample(softplus(-logit.detach())), torch.zeros_like(u, dtype=torch.int64))
        return log_ratio.to(u).expand(len(u))

    @property
    def scale(self) -> Tensor:
        """1: the weights are not normalised."""
        return self.loss.total.new_ones((), dtype=torch.float32)

    @property
    def scale_of_one(self) -> float:
        """1, as `scale`."""
        return 1.0

    def commit(self, reduce: Reduce) -> None:
        """Take the step's loss for the next."""
        self.loss.commit(reduce)


class DensityRatio(nn.Module):
    """Turns a discriminator's logits into a clamped log-ratio whose r has mean one in every noise-level bin.

    E_q[r] = 1 holds for the true ratio at every level; dividing by the running mean restores it. Bins are quantiles of the noise level, so
    each sees the same number of samples. `scale` is one over the running mean of h(r), which keeps the objective's size, and with it the
    balance with other terms, the same for all divergences.
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
        self.divergence, self.low, self.high, self.bins, self.normalise = (
            divergence,
            low,
            high,
            bins,
            normalise,
        )
        self.r_mean = RunningMean(bins, decay)
        self.h_mean = RunningMean(1, decay)

    def forward(
        self, logit: Float[Tensor, "b ..."], u: Float[Tensor, " b"], elements: int = 1
    ) -> Float[Tensor, " b"]:
        """The log-ratio of samples whose noise levels are the quantiles u, detached from the discriminator. Where a sample has a logit for each
        position, its own is their mean. `elements` of an image do not matter here."""
        r = per_sample(logit.detach()).exp().clamp(self.low, self.high)
        if not self.normalise:
            return r.log()
        bins = (u * self.bins).long().clamp_max(self.bins - 1)
        self.r_mean.add(r, bins)
        log_ratio = (r / self.r_mean.mean()[bins].to(r.dtype)).log()
        self.h_mean.add(self.divergence.h(log_ratio), torch.zeros_like(bins))
        return log_ratio

    @property
    def scale(self) -> Tensor:
        """One over the running mean of h, a scalar."""
        return 1 / self.h_mean.mean()[0].float()

    @property
    def scale_of_one(self) -> float:
        """The scale where all ratios are 1: 1/h(1)."""
        return 1 / float(self.divergence.h(torch.zeros(())))

    def commit(self, reduce: Reduce) -> None:
        """Take the step's samples into the running means."""
        self.r_mean.commit(reduce)
        self.h_mean.commit(reduce)
