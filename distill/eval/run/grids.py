"""Grids of real and generated images, with a column for each label, to compare student and teacher by eye."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import save_grid
from distill.storage.files import new_folder

ROWS, MAX_COLUMNS = 10, 10


def columns_of(label_count: int) -> int:
    """Choose the number of a grid's columns: one for each label if they are few."""
    return label_count if 0 < label_count <= MAX_COLUMNS else MAX_COLUMNS


def save_grids(
    folder: Path, real: UInt8[Tensor, "n c h w"], made: Mapping[str, UInt8[Tensor, "_ c h w"]], columns: int
) -> None:
    """Write `real.png` and one PNG with the first images of each set, replacing the folder."""
    try:
        with new_folder(folder) as partial:
            for name, pixels in {"real": real, **made}.items():
                save_grid(pixels[: ROWS * columns], partial / f"{name}.png", columns)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def by_label(labels: Int64[Tensor, " n"] | None, total: int, label_count: int, count: int) -> list[int]:
    """Choose the rows of at most `count` of `total` images.

    The i-th has label i % label_count, as generated images do. Without labels the first images are chosen.
    """
    if labels is None:
        return list(range(min(count, total)))
    rows_of = [torch.nonzero(labels == label).flatten().tolist() for label in range(label_count)]
    chosen = []
    for place in range(count):
        rows = rows_of[place % label_count]
        if rows:
            chosen.append(rows[place // label_count % len(rows)])
    return chosen
