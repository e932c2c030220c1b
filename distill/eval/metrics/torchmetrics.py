"""The metrics as `torchmetrics.Metric`s, which combine the images of several processes.

They have a file of their own because importing torchmetrics takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from distill.config.errors import UserError
from distill.eval.features import checked
from distill.eval.frechet import Statistics, frechet_distance, shifted_sums
from distill.eval.metrics.frechet_limit import frechet_limit
from distill.eval.metrics.frechet_ratio import frechet_ratio
from distill.eval.metrics.gaussian_mmd import gaussian_mmd
from distill.eval.metrics.inception_score import inception_score
from distill.eval.metrics.kernel_distance import kernel_distance
from distill.eval.metrics.precision_recall import (
    COVERAGE_NEIGHBOURS,
    NEIGHBOURS,
    Manifold,
    density_coverage,
    precision_recall,
)


class FrechetDistance(Metric):
    """Fréchet distance between generated features and the statistics of real ones.

    `compute()` is a float64 scalar. The sums are kept in float64 and shifted by the real mean. All processes
    have the same shift, so their sums can be added up.
    """

    higher_is_better = False
    full_state_update = False
    shift: Tensor
    total: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, real: Statistics) -> None:
        super().__init__()
        self.real = real
        self.register_buffer("shift", real.mean, persistent=False)
        self.add_state("total", torch.zeros_like(real.mean), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros_like(real.cov), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Add the features of generated images."""
        total, products = shifted_sums(features, self.shift)
        self.total += total
        self.products += products
        self.count += len(features)

    def compute(self) -> Tensor:
        """Return the distance, for at least 2 images."""
        made = Statistics.from_sums(self.shift.cpu(), self.total.cpu(), self.products.cpu(), int(self.count))
        return torch.tensor(frechet_distance(made, self.real), dtype=torch.float64)


def gather_rows(rows: Tensor, group: distributed.ProcessGroup | None = None) -> list[Tensor]:
    """Return the rows of every process.

    A process that was given no images does not know the dimension and type of the others' rows, so these are
    gathered first.
    """
    kinds: list[tuple[torch.Size, torch.dtype] | None] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(kinds, (rows.shape[1:], rows.dtype) if rows.numel() else None, group)
    known = [kind for kind in kinds if kind is not None]
    if known and not rows.numel():
        shape, dtype = known[0]
        rows = rows.new_zeros((0, *shape), dtype=dtype)
    return gather_all_tensors(rows, group)


class FeatureMetric(Metric):
    """Base of the metrics that need all features of the generated images at once.

    `compute()` is a dictionary of numbers. With `rows`, the numbers of the images, the order of processes and
    batches does not matter: the features are sorted by row.
    """

    full_state_update = False
    features: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], rows: Int64[Tensor, " n"] | None = None) -> None:
        """Add the features of generated images, and their row numbers."""
        self.features.append(checked(features))
        self.rows.append(
            torch.zeros(len(features), dtype=torch.int64, device=features.device) if rows is None else rows
        )

    def compute(self) -> Mapping[str, object]:
        """Measure the features of all processes."""
        features, rows = _joined(self.features), _joined(self.rows)
        if not len(features):
            raise UserError(f"{type(self).__name__}: no generated images were given")
        return self.measure(features[rows.argsort(stable=True)])

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        """Compute the metric of all features."""
        raise NotImplementedError


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """Return a state as one tensor on the CPU. After a reduction over processes it is one already."""
    if isinstance(state, list):
        return torch.cat(state).cpu() if state else torch.zeros(0)
    return state.cpu()


class PrecisionRecall(FeatureMetric):
    """Precision and recall of generated features with respect to real ones."""

    higher_is_better = True

    def __init__(self, real: Float[Tensor, "n d"], k: int = NEIGHBOURS) -> None:
        super().__init__()
        self.real, self.k = Manifold.of(real, k), k

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        return precision_recall(self.real, Manifold.of(features, self.k))


class DensityCoverage(FeatureMetric):
    """Density and coverage of generated features with respect to real ones."""

    higher_is_better = True

    def __init__(self, real: Float[Tensor, "n d"], k: int = COVERAGE_NEIGHBOURS) -> None:
        super().__init__()
        self.real, self.k = Manifold.of(real, k), k

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        return density_coverage(self.real, features, self.k)


class KernelDistance(FeatureMetric):
    """Kernel Inception Distance between generated and real features, with its standard error."""

    higher_is_better = False

    def __init__(self, real: Float[Tensor, "n d"]) -> None:
        super().__init__()
        self.real = real

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        return kernel_distance(features, self.real)


class FrechetLimit(FeatureMetric):
    """Limit of the Fréchet distance for infinitely many generated images, with its standard error."""

    higher_is_better = False

    def __init__(self, real: Statistics) -> None:
        super().__init__()
        self.real = real

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        limit = frechet_limit(features, self.real)
        return {"fd_limit": limit.value, "fd_limit_deviation": limit.deviation}


class FrechetRatio(FeatureMetric):
    """Fréchet distance of generated images in units of that of held-out real images, FDr."""

    higher_is_better = False

    def __init__(self, held_out: Float[Tensor, "n d"], real: Statistics) -> None:
        super().__init__()
        self.held_out, self.real = held_out, real

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        return frechet_ratio(features, self.held_out, self.real)


class GaussianMMD(FeatureMetric):
    """CMMD between generated and real embeddings of length 1."""

    higher_is_better = False

    def __init__(self, real: Float[Tensor, "n d"]) -> None:
        super().__init__()
        self.real = real

    def measure(self, features: Float64[Tensor, "n d"]) -> Mapping[str, object]:
        return gaussian_mmd(features, self.real)


class InceptionScore(FeatureMetric):
    """Inception score of logits, which `update` takes as features. Its ten parts follow the rows."""

    higher_is_better = True

    def measure(self, features: Float64[Tensor, "n k"]) -> Mapping[str, object]:
        return inception_score(features)
