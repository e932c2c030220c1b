"""Calibration of the discriminator: a check that its logit is the log-ratio.

Within a bin of logits, E_q[r] is the share of the real samples in that bin over the share of the student
samples. The counts of both give the observed log E_q[r], the mean of exp(logit) gives the predicted one, and
in the laboratory the densities give the exact one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.objectives.density_ratio import Reduce, RunningMean
from distill.types import Condition

EDGES = torch.linspace(-4.6, 4.6, 24).sinh() / 10
"""Edges of the bins of the raw logit, from -5 to 5, closest around 0, the logit of a good student."""
MIN_SAMPLES = 10.0
"""Minimum of real and of student samples in a bin for its log-ratio: the standard error is then below 1/2."""

LogRatio = Callable[[Tensor, Tensor, Condition], Tensor]
"""Gives the exact log p_t/q_t of the current student, (b,), at x_t (b, ...), t (b,) and a condition."""


class Calibration(nn.Module):
    """Running counts of real and student samples in bins of the logit.

    They do not depend on how a batch is split into processes or micro-batches.
    """

    def __init__(self, exact: LogRatio | None = None, decay: float = 0.99) -> None:
        super().__init__()
        self.exact = exact
        self.edges: Tensor
        self.register_buffer("edges", EDGES, persistent=False)
        # Means of r in each bin; only the counts of the real samples are read.
        self.real, self.student, self.exact_student = (RunningMean(len(EDGES) + 1, decay) for _ in range(3))

    def add(self, real: Float[Tensor, " b"], student: Float[Tensor, " b"]) -> None:
        """Record the logits of a micro-batch of real and of student samples until `commit`."""
        self.real.add(real.double().exp(), bins_of(real, self.edges))
        self.student.add(student.double().exp(), bins_of(student, self.edges))

    def compare(
        self,
        student: Float[Tensor, " b"],
        x_t: Float[Tensor, "b ..."],
        t: Float[Tensor, " b"],
        cond: Condition,
    ) -> dict[str, Tensor]:
        """Record the exact ratio at student samples x_t, and return the mean absolute error of their logits.

        Does nothing and returns no metric if the exact ratio is not known.
        """
        if self.exact is None:
            return {}
        exact = self.exact(x_t, t, cond)
        self.exact_student.add(exact.double().exp(), bins_of(student, self.edges))
        return {"ratio/exact_error": (student.detach() - exact).abs().mean()}

    def commit(self, reduce: Reduce) -> None:
        """Take what was added, summed over processes, into the counts."""
        for counts in (self.real, self.student, self.exact_student):
            counts.commit(reduce)

    def table(self) -> dict[str, list[float]]:
        """Return columns over the bins with enough samples.

        They are the predicted and the observed log E_q[r], the running counts of real and of student samples,
        and, if it is known, the exact log E_q[r].
        """
        real, student = self.real.total[1], self.student.total[1]
        observed = (real / real.sum()).log() - (student / student.sum()).log()
        columns = {
            "predicted": self.student.mean().log(),
            "observed": observed,
            "real": real,
            "student": student,
        }
        enough = (real >= MIN_SAMPLES) & (student >= MIN_SAMPLES)
        if self.exact is not None:
            columns["exact"] = self.exact_student.mean().log()
            enough &= self.exact_student.total[1] >= MIN_SAMPLES
        return {name: column[enough].tolist() for name, column in columns.items()}

    def error(self) -> float | None:
        """Return the mean absolute difference of predicted and observed log E_q[r], weighted by samples.

        It is None if no bin has enough samples.
        """
        table = {name: torch.tensor(column, dtype=torch.float64) for name, column in self.table().items()}
        weight = table["real"] + table["student"]
        if len(weight) == 0:
            return None
        gap = (table["predicted"] - table["observed"]).abs()
        return (gap * weight).sum().div(weight.sum()).item()


def bins_of(logit: Float[Tensor, " b"], edges: Float[Tensor, " edges"]) -> Int64[Tensor, " b"]:
    """Return the bin of each logit; a nan, at which the check of the losses stops the run, is in the last."""
    return torch.bucketize(logit.detach(), edges.to(logit.dtype))
