"""The metrics as `torchmetrics.Metric`, which reduce over processes. A room of its own, because importing torchmetrics takes seconds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from distill.errors import UserError
from eval.features import checked
from eval.frechet import Statistics, frechet_distance, shifted_sums
from eval.precision_recall import NEIGHBOURS, Manifold, precision_recall


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


class PrecisionRecall(Metric):
    """Precision and recall of generated features against real ones; `compute()` is `{"precision": float, "recall": float}`."""

    higher_is_better = True
    full_state_update = False
    features: list[Tensor]

    def __init__(self, real: Float[Tensor, "n d"], k: int = NEIGHBOURS) -> None:
        super().__init__()
        self.real, self.k = Manifold.of(real, k), k
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Add the features of generated images. Raises UserError where one is not finite."""
        self.features.append(checked(features))

    def compute(self) -> dict[str, float]:
        """Both shares, in [0, 1]. Raises UserError where there are no more generated images than neighbours, or of another dimension."""
        # After a reduction over processes the list is one tensor.
        given = self.features if isinstance(self.features, list) else [self.features]
        if not given:
            raise UserError("precision and recall: no generated images were given")
        return precision_recall(self.real, Manifold.of(torch.cat(given).cpu(), self.k))
