"""Whether the discriminator's logit is the log-ratio that it is taken for.

Among samples with a logit near u, real ones are to be exp(u) times as many as student samples. Counts of both by bins of the logit give the
log-ratio observed, log E_q[r] in the bin, to be compared with the one predicted, and in the laboratory with the exact one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.ratio import Reduce, RunningMean
from distill.types import Condition

BINS, LIMIT = 15, 5.0
"""Equal bins of the raw logit over [-LIMIT, LIMIT]; those at the ends take what lies beyond."""
ENOUGH = 10.0
"""Fewest real samples, and fewest student samples, of which a bin's log-ratio is observed: its standard error is below one half."""

LogRatio = Callable[[Tensor, Tensor, Condition], Tensor]
"""The exact log p_t/q_t of the student as it is now, (b,), at x_t (b, ...), t (b,) and a condition."""


class Calibration(nn.Module):
    """Running counts of real and student samples by bin of logit, the same however a batch is split into processes or micro-batches."""

    def __init__(self, exact: LogRatio | None = None, decay: float = 0.99) -> None:
        super().__init__()
        self.exact = exact
        self.real, self.student, self.exact_ratio = (RunningMean(BINS, decay) for _ in range(3))

    def add(self, real: Float[Tensor, " b"], student: Float[Tensor, " b"]) -> None:
        """Remember the logits of a micro-batch of real and of student samples until `commit`."""
        self.real.add(real, bins_of(real))
        self.student.add(student, bins_of(student))

    def compare(self, student: Float[Tensor, " b"], x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Condition) -> dict[str, Tensor]:
        """Remember, too, the exact ratio at student samples x_t with these logits. Returns the logits' mean absolute error; nothing where the
        ratio is not known."""
        if self.exact is None:
            return {}
        exact = self.exact(x_t, t, cond)
        self.exact_ratio.add(exact.double().exp(), bins_of(student))
        return {"ratio/exact_error": (student.detach() - exact).abs().mean()}

    def commit(self, reduce: Reduce) -> None:
        """Take what was added, summed over processes, into the counts."""
        for counts in (self.real, self.student, self.exact_ratio):
            counts.commit(reduce)

    def table(self) -> dict[str, list[float]]:
        """A column each for the bins with enough samples: mean logit, observed log-ratio, running counts of real and of student samples, and,
        where it is known, the log-ratio as it should be observed."""
        real_sum, real = self.real.total.cpu()
        student_sum, student = self.student.total.cpu()
        predicted = (real_sum + student_sum) / (real + student)
        observed = (real / real.sum()).log() - (student / student.sum()).log()
        columns = {"predicted": predicted, "observed": observed, "real": real, "student": student}
        enough = (real >= ENOUGH) & (student >= ENOUGH)
        if self.exact is not None:
            columns["exact"] = self.exact_ratio.mean().log().cpu()
            enough &= self.exact_ratio.total[1].cpu() >= ENOUGH
        return {name: column[enough].tolist() for name, column in columns.items()}

    def error(self) -> float | None:
        """Mean absolute difference of predicted and observed log-ratio, each bin weighted by its samples; None where no bin has enough."""
        predicted, observed, real, student, *_ = (torch.tensor(column, dtype=torch.float64) for column in self.table().values())
        weight = real + student
        return ((predicted - observed).abs() * weight).sum().div(weight.sum()).item() if len(weight) else None


def bins_of(logit: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """The bin of each logit."""
    return ((logit.detach() + LIMIT) * (BINS / (2 * LIMIT))).floor().clamp(0, BINS - 1).long()
