"""Grids of real and generated images, those of one label together, to compare student and teacher by eye."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from distill.config.errors import writing_to
from distill.data.class_grid import ClassGrid
from distill.data.images import save_class_grid
from distill.storage.files import new_folder


def save_grids(
    folder: Path,
    real: UInt8[Tensor, "n c h w"],
    made: Mapping[str, UInt8[Tensor, "_ c h w"]],
    label_count: int,
) -> str:
    """Write `real.png` and one PNG of each set, replacing the folder, and say which label is where.

    Image i of each set has the label i % `label_count`. All grids show the same number of images, that of the
    smallest set.
    """
    sets = {"real": real, **made}
    count = min(map(len, sets.values()))
    with writing_to(f"{folder}:"), new_folder(folder) as partial:
        for name, pixels in sets.items():
            save_class_grid(pixels[:count], partial / f"{name}.png", label_count)
    return ClassGrid(label_count, count).describe()


def by_label(
    labels: Int64[Tensor, " n"] | None, total: int, label_count: int, count: int
) -> list[int | None]:
    """Choose the rows of at most `count` of `total` images; None for a label that no image has.

    The i-th has label i % label_count, as generated images do. Without labels the first images are chosen.
    """
    if labels is None:
        return list(range(min(count, total)))
    rows_of = [torch.nonzero(labels == label).flatten().tolist() for label in range(label_count)]
    chosen: list[int | None] = []
    for place in range(count):
        rows = rows_of[place % label_count]
        chosen.append(rows[place // label_count % len(rows)] if rows else None)
    return chosen


def fill(images: Iterable[object], rows: Sequence[int | None]) -> UInt8[Tensor, "n c h w"]:
    """Stack images, one for each row that is not None, with a white one for each None or unreadable image."""
    found = iter(images)
    given = [None if row is None else next(found) for row in rows]
    white = next(torch.full_like(image, 255) for image in given if isinstance(image, Tensor))
    return torch.stack([image if isinstance(image, Tensor) else white for image in given])
