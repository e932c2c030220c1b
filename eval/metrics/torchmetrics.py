"""The metrics as `torchmetrics.Metric`, which reduce over processes. A room of its own, because importing torchmetrics takes seconds."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from distill.config.errors import UserError
from eval.features import checked
from eval.frechet import Statistics, frechet_distance, shifted_sums
from eval.metrics.frechet_limit import frechet_limit
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel_distance import kernel_distance
from eval.metrics.precision_recall import (
    COVERAGE_NEIGHBOURS,
    NEIGHBOURS,
    Manifold,
    density_coverage,
    precision_recall,
)


class FrechetDistance(Metric):
    """Fréchet distance of generated features to the statistics of real ones; `compute()` is a float64 scalar.

    The sums are kept in float64 and shifted by the real mean, which all processes share, so that they may simply be added up.
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
        """Add the features of generated images. Raises UserError where one is not finite or their dimension is not the real ones'."""
        total, products = shifted_sums(features, self.shift)
        self.total += total
        self.products += products
        self.count += len(features)

    def compute(self) -> Tensor:
        """The distance. Raises UserError where fewer than 2 images were given."""
        made = Statistics.from_sums(self.shift.cpu(), self.total.cpu(), self.products.cpu(), int(self.count))
        return torch.tensor(frechet_distance(made, self.real), dtype=torch.float64)


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of every process, of one that was given no images too, which does not know the others' dimension and type."""
    kinds: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(kinds, (rows.shape[1:], rows.dtype) if rows.numel() else None, group)
    shape, dtype = next((kind for kind in kinds if kind), (rows.shape[1:], rows.dtype))
    return gather_all_tensors(rows if rows.numel() else rows.new_zeros((0, *shape), dtype=dtype), group)


class OfFeatures(Metric):
    """A metric that needs all features of the generated images at once; `compute()` is a dictionary of floats.

    With `rows`, the numbers of the images, the order of processes and batches does not matter: the features are put into that of the rows.
    """

    full_state_update = False
    features: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], rows: Int64[Tensor, " n"] | None = None) -> None:
        """Add the features of generated images. Raises UserError where one is not finite."""
        self.features.append(checked(features))
        self.rows.append(
            torch.zeros(len(features), dtype=torch.int64, device=features.device) if rows is None else rows
        )

    def compute(self) -> dict[str, float]:
        """The measure. Raises UserError where no images were given, or too few."""
        # After a reduction over processes the lists are tensors.
        features, rows = (
            torch.cat(state).cpu() if isinstance(state, list) and state else state
            for state in (self.features, self.rows)
        )
        if not isinstance(features, Tensor) or not len(features):
            raise UserError(f"{type(self).__name__}: no generated images were given")
        return self.measure(features[torch.as_tensor(rows).cpu().argsort(stable=True)].cpu())

    def measure(self, features: Float64[Tensor, "n d"]) -> dict[str, float]:
        """The measure of all features."""
        raise NotImplementedError


class PrecisionRecall(OfFeatures):
    """Precision and recall of generated features against real ones."""

    higher_is_better = True

    def __init__(self, real: Float[Tensor, "n d"], k: int = NEIGHBOURS) -> None:
        super().__init__()
        self.real, self.k = Manifold.of(real, k), k

    def measure(self, features: Float64[Tensor, "n d"]) -> dict[str, float]:
        return precision_recall(self.real, Manifold.of(features, self.k))


class DensityCoverage(OfFeatures):
    """Density and coverage of generated features against real ones."""

    higher_is_better = True

    def __init__(self, real: Float[Tensor, "n d"], k: int = COVERAGE_NEIGHBOURS) -> None:
        super().__init__()
        self.real, self.k = Manifold.of(real, k), k

    def measure(self, features: Float64[Tensor, "n d"]) -> dict[str, float]:
        return density_coverage(self.real, features, self.k)


class KernelDistance(OfFeatures):
    """Kernel Inception Distance of generated features to real ones, with its standard error."""

    higher_is_better = False

    def __init__(self, real: Float[Tensor, "n d"]) -> None:
        super().__init__()
        self.real = real

    def measure(self, features: Float64[Tensor, "n d"]) -> dict[str, float]:
        return kernel_distance(features, self.real)


class FrechetLimit(OfFeatures):
    """Fréchet distance to the statistics of real features for infinitely many generated images, with its standard error."""

    higher_is_better = False

    def __init__(self, real: Statistics) -> None:
        super().__init__()
        self.real = real

    def measure(self, features: Float64[Tensor, "n d"]) -> dict[str, float]:
        limit = frechet_limit(features, self.real)
        return {"fd_limit": limit.value, "fd_limit_deviation": limit.deviation}


class InceptionScore(OfFeatures):
    """Inception score; what it is fed are logits. Its ten parts follow the rows."""

    higher_is_better = True

    def measure(self, features: Float64[Tensor, "n k"]) -> dict[str, float]:
        return inception_score(features)
