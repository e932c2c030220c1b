"""The order of images in a grid in which those of one label or prompt stand together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_COLUMN_LABELS = 10
"""Number of labels up to which each has columns of its own."""


@dataclass(frozen=True)
class ClassGrid:
    """A nearly square grid of `count` images, of which image i has the label i % `label_count`.

    Up to ten labels have columns of their own. The images of each of more labels stand side by side in a row,
    and as many are left out as one label has more than another. If there are more labels than images, each
    image is of another label. `label_count` 0 stands for images without labels.
    """

    label_count: int
    count: int

    @property
    def side(self) -> int:
        """Side of the square that holds all images."""
        return math.ceil(math.sqrt(self.count))

    @property
    def has_columns(self) -> bool:
        """True if each label has columns of its own."""
        return 0 < self.label_count <= min(MAX_COLUMN_LABELS, self.count)

    @property
    def copies(self) -> int:
        """Number of images side by side of one label."""
        if self.has_columns:
            each = math.ceil(self.count / self.label_count)
            wide = (k for k in range(1, each + 1) if self.label_count * k <= math.ceil(each / k))
            return max(wide, default=1)
        return min(self.side, max(1, self.count // max(1, self.label_count)))

    @property
    def columns(self) -> int:
        """Number of columns of the grid."""
        if self.has_columns:
            return self.label_count * self.copies
        if self.label_count in range(1, self.count + 1):
            return self.copies * max(1, round(self.side / self.copies))
        return self.side

    def cells(self) -> list[int | None]:
        """Return the number of the image in each cell, row by row; None for an empty cell."""
        if not 0 < self.label_count <= self.count:
            return list(range(self.count))
        if not self.has_columns:
            labels, copies = range(self.label_count), range(self.copies)
            return [copy * self.label_count + label for label in labels for copy in copies]
        each = math.ceil(self.count / self.label_count)
        cells: list[int | None] = []
        for row in range(math.ceil(each / self.copies)):
            for column in range(self.columns):
                copy = row * self.copies + column % self.copies
                image = copy * self.label_count + column // self.copies
                cells.append(image if image < self.count else None)
        return cells

    def arrange(self, images: Tensor, blank: float) -> Tensor:
        """Put images, (count, ...), into the order of the cells; empty cells have the value `blank`."""
        cells = self.cells()
        empty = torch.full_like(images[0], blank)
        return torch.stack([empty if cell is None else images[cell] for cell in cells])

    def describe(self) -> str:
        """Say in words which label an image has; empty without labels."""
        if self.label_count < 2:
            return ""
        if self.label_count > self.count:
            return f"labels 0 to {self.count - 1} of {self.label_count}, one image of each"
        if not self.has_columns:
            each = "one image" if self.copies == 1 else f"{self.copies} images side by side"
            return f"labels 0 to {self.label_count - 1} in order, {each} of each"
        each = "a column" if self.copies == 1 else f"{self.copies} columns side by side"
        return f"{each} for each of the labels 0 to {self.label_count - 1}"
