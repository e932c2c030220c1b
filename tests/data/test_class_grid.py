"""Grids of any number of labels: images of a label stand together in a picture of readable shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data.class_grid import ClassGrid
from distill.data.images import save_class_grid


@pytest.mark.parametrize(
    ("labels", "columns", "rows", "said"),
    [
        (0, 10, 10, ""),
        (1, 10, 10, ""),
        (3, 9, 12, "3 columns side by side for each of the labels 0 to 2"),
        (7, 7, 15, "a column for each of the labels 0 to 6"),
        (10, 10, 10, "a column for each of the labels 0 to 9"),
        (21, 8, 11, "labels 0 to 20 in order, 4 images side by side of each"),
        (50, 10, 10, "labels 0 to 49 in order, 2 images side by side of each"),
        (100, 10, 10, "labels 0 to 99 in order, one image of each"),
        (1000, 10, 10, "labels 0 to 99 of 1000, one image of each"),
    ],
)
def test_a_grid_of_a_hundred_images(labels: int, columns: int, rows: int, said: str) -> None:
    grid = ClassGrid(labels, 100)
    assert (grid.columns, -(-len(grid.cells()) // grid.columns), grid.describe()) == (columns, rows, said)


def test_three_labels_have_columns_of_their_own() -> None:
    cells = np.array([-1 if cell is None else cell for cell in ClassGrid(3, 100).cells()]).reshape(12, 9)
    assert sorted(cells[cells >= 0].tolist()) == list(range(100))
    for label in range(3):
        column = cells[:, 3 * label : 3 * label + 3]
        assert (column[column >= 0] % 3 == label).all()
    assert cells[0].tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_the_images_of_each_of_twenty_one_labels_stand_side_by_side() -> None:
    cells = ClassGrid(21, 100).cells()
    assert [cell % 21 for cell in cells if cell is not None] == [
        label for label in range(21) for _ in range(4)
    ]
    assert len(set(cells)) == 84


@pytest.mark.parametrize(("labels", "count", "columns"), [(10, 4, 2), (3, 9, 3), (10, 20, 10), (16, 16, 4)])
def test_a_grid_of_few_images(labels: int, count: int, columns: int) -> None:
    assert ClassGrid(labels, count).columns == columns
    assert sorted(cell for cell in ClassGrid(labels, count).cells() if cell is not None) == list(range(count))


def test_an_empty_cell_is_white(tmp_path: Path) -> None:
    pixels = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8)[:, None, None, None].expand(5, 1, 32, 32)
    save_class_grid(pixels, tmp_path / "grid.png", 2)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid[17::33, 17::33].tolist() == [[10, 20], [30, 40], [50, 255]]
