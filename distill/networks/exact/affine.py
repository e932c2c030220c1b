"""An affine student: it is Gaussian at every noise level, so its distribution is known exactly."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.types import Condition, Generator


class Affine(Generator):
    """A `Generator` of vectors: x_0 = mean_c + L_c z, with a mean and a matrix L for each label c.

    It is standard normal before training.
    """

    def __init__(self, dimension: int, label_count: int = 0) -> None:
        super().__init__()
        self.image_shape, self.label_count = (dimension,), label_count
        rows = max(1, label_count)
        self.mean = nn.Parameter(torch.zeros(rows, dimension))
        self.matrix = nn.Parameter(torch.eye(dimension).repeat(rows, 1, 1))

    def describe(self) -> dict[str, Any]:
        """Return its sizes as plain data."""
        return {"dimension": self.image_shape[0], "label_count": self.label_count}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Affine:
        """Build the map from what `describe` returned."""
        return cls(**description)

    def forward(self, z: Float[Tensor, "b d"], cond: Condition) -> Float[Tensor, "b d"]:
        row = cond.label
        if row is None:
            row = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return self.mean[row] + torch.einsum("bde,be->bd", self.matrix[row], z)
