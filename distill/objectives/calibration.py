"""Whether the discriminator's logit is the log-ratio that it is taken for.

E_q[r] over the student samples of a bin of logits is the share of the real samples in that bin over the share of the student samples. Counts of
both give what is observed, the mean of exp(logit) what is predicted, and in the laboratory the densities what is exact: all as log E_q[r].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.objectives.density_ratio import Reduce, RunningMean
from distill.types import Condition

EDGES = torch.linspace(-4.6, 4.6, 24).sinh() / 10
"""Edges of the bins of the raw logit, from -5 to 5 and closest about 0, where those of a good student lie."""
ENOUGH = 10.0
"""Fewest real samples, and fewest student samples, of which a bin's log-ratio is observed: its standard error is below one half."""

LogRatio = Callable[[Tensor, Tensor, Condition], Tensor]
"""The exact log p_t/q_t of the student as it is now, (b,), at x_t (b, ...), t (b,) and a condition."""


class Calibration(nn.Module):
    """Running counts of real and student samples by bin of logit, the same however a batch is split into processes or micro-batches."""

    def __init__(self, exact: LogRatio | None = None, decay: float = 0.99) -> None:
        super().__init__()
        self.exact = exact
        # Means of r in each bin; of the real samples, the counts alone are read.
        self.real, self.student, self.exact_student = (RunningMean(len(EDGES) + 1, decay) for _ in range(3))

    def add(self, real: Float[Tensor, " b"], student: Float[Tensor, " b"]) -> None:
        """Remember the logits of a micro-batch of real and of student samples until `commit`."""
        self.real.add(real.double().exp(), bins_of(real))
        self.student.add(student.double().exp(), bins_of(student))

    def compare(
        self,
        student: Float[Tensor, " b"],
        x_t: Float[Tensor, "b ..."],
        t: Float[Tensor, " b"],
        cond: Condition,
    ) -> dict[str, Tensor]:
        """Remember, too, the exact ratio at student samples x_t with these logits. Returns the logits' mean absolute error; nothing where the
        ratio is not known."""
        if self.exact is None:
            return {}
        exact = self.exact(x_t, t, cond)
        self.exact_student.add(exact.double().exp(), bins_of(student))
        return {"ratio/exact_error": (student.detach() - exact).abs().mean()}

    def commit(self, reduce: Reduce) -> None:
        """Take what was added, summed over processes, into the counts."""
        for counts in (self.real, self.student, self.exact_student):
            counts.commit(reduce)

    def table(self) -> dict[str, list[float]]:
        """A column each for the bins with enough samples: log E_q[r] predicted and observed, running counts of real and of student samples,
        and the exact log E_q[r] where it is known."""
        real, student = self.real.total[1], self.student.total[1]
        observed = (real / real.sum()).log() - (student / student.sum()).log()
        columns = {
            "predicted": self.student.mean().log(),
            "observed": observed,
            "real": real,
            "student": student,
        }
        enough = (real >= ENOUGH) & (student >= ENOUGH)
        if self.exact is not None:
            columns["exact"] = self.exact_student.mean().log()
            enough &= self.exact_student.total[1] >= ENOUGH
        return {name: column[enough].tolist() for name, column in columns.items()}

    def error(self) -> float | None:
        """Mean absolute difference of predicted and observed log-ratio, each bin weighted by its samples; None where no bin has enough."""
        predicted, observed, real, student, *_ = (
            torch.tensor(column, dtype=torch.float64) for column in self.table().values()
        )
        weight = real + student
        return ((predicted - observed).abs() * weight).sum().div(weight.sum()).item() if len(weight) else None


def bins_of(logit: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """The bin of each logit; one that is not a number, which ends the run as soon as the losses are checked, counts as large."""
    return torch.bucketize(logit.detach(), EDGES.to(logit))
