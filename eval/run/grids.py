"""Grids of real and generated images to look at: a column for each label, so that a student's and its teacher's faces stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from distill.config.errors import UserError
from distill.data.images import save_grid
from distill.storage.files import new_folder
from eval.run.images import Images

ROWS, MAX_COLUMNS = 10, 10


def save_grids(folder: Path, real: Images, made: Mapping[str, Images]) -> None:
    """Write `real.png` and one PNG for each set of images, replacing the folder. Raises UserError where it cannot be written."""
    columns = real.label_count if 0 < real.label_count <= MAX_COLUMNS else MAX_COLUMNS
    try:
        with new_folder(folder) as partial:
            save_grid(real.pixels[by_label(real, ROWS * columns)], partial / "real.png", columns)
            for role, images in made.items():
                save_grid(images.pixels[: ROWS * columns], partial / f"{role}.png", columns)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def by_label(images: Images, count: int) -> list[int]:
    """Rows of at most `count` images: the i-th has label i % label_count, as generated images have; in order where there are no labels."""
    if images.labels is None:
        return list(range(min(count, len(images))))
    of_label = [
        torch.nonzero(images.labels == label).flatten().tolist() for label in range(images.label_count)
    ]
    turns = ((index // images.label_count, of_label[index % images.label_count]) for index in range(count))
    return [rows[turn % len(rows)] for turn, rows in turns if rows]
