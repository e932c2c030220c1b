"""Emoji pictures of three styles, with names, categories and captions.

Sources: Google's Noto Emoji (Apache 2.0), Twitter's Twemoji (CC-BY 4.0) and Microsoft's Fluent Emoji (MIT),
from the npm packages named in `distill/data/emoji/LICENSES.md`; `benchmarks/emoji_data.py` made the files.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, field_validator

from distill.config.errors import UserError, did_you_mean
from distill.data import Captions, DataSettings
from distill.data.sources.array import InBytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES = "names.tsv"
COLUMNS = ("code", "name", "other_names", "category", "subcategory", "split")
SHEET_COLUMNS = 48
"""Pictures in one row of a sheet."""
SHIPPED = Path(__file__).parents[1] / "emoji"

Style = Literal["noto", "twemoji", "3d"]
Category = Literal[
    "smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols", "flags"
]
PICTURES: tuple[Category, ...] = ("smileys", "people", "animals", "food", "travel", "activities", "objects")
"""The categories that look alike."""
SPLITS = ("train", "held_out")


@dataclasses.dataclass(frozen=True)
class EmojiName:
    """One name: its Unicode code points, what it is called, where it belongs, and its part of the split."""

    code: str
    name: str
    other_names: tuple[str, ...]
    category: str
    subcategory: str
    split: str

    def captions(self, style: str) -> tuple[str, ...]:
        """Return its captions in a style, such as "red apple, food fruit, 3d style"."""
        return tuple(f"{name}, {self.subcategory}, {style} style" for name in (self.name, *self.other_names))


class Settings(DataSettings):
    """Colour pictures of 1 852 emoji in three styles, of which every tenth name is held out."""

    name: Literal["emoji"] = "emoji"
    resolution: int = Field(32, ge=1)
    """Height and width in pixels. The pictures that come with the package have 32, and are averaged down to
    16 or 8."""
    styles: tuple[Style, ...] = ("noto", "twemoji", "3d")
    """Styles of the pictures: Google's Noto, Twitter's Twemoji, Microsoft's Fluent 3D."""
    categories: tuple[Category, ...] | None = None
    """Categories of the pictures. null, the default, takes all but `symbols` and `flags`, which look unlike
    the others."""
    condition: Literal["labels", "captions"] = "labels"
    """`labels` gives each picture one class for each pair of style and category, numbered style by style in
    the order above; `captions` gives it texts, such as "red apple, food fruit, 3d style"."""
    path: Path | None = None
    """Folder that `benchmarks/emoji_data.py` wrote, for pictures of 64x64. null, the default, takes those
    that come with the package."""

    @field_validator("styles", "categories")
    @classmethod
    def _are_distinct(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if values is not None and len(set(values)) != max(len(values), 1):
            raise ValueError(f"expected at least one, each once; found {list(values)}")
        return values

    @property
    def has_held_out(self) -> bool:
        return True

    def class_names(self) -> tuple[str, ...]:
        if self.condition == "captions":
            return ()
        return tuple(
            f"{category}, {style} style" for style in self.styles for category in self.categories or PICTURES
        )

    def load(self, split: str = "train") -> InBytes:
        """Open the split `train` or `held_out`, which share no name."""
        folder = self.path or SHIPPED
        names = read_names(folder)
        categories = self.categories or PICTURES
        rows = [
            (index, name)
            for index, name in enumerate(names)
            if name.split == split and name.category in categories
        ]
        if not rows:
            raise UserError(
                f"data.categories: {folder / NAMES} has no name of {', '.join(categories)} in the split "
                f"{split}; expected at least one"
            )
        pixels = _concatenate(
            [
                self._read_style(folder, style, [index for index, _ in rows], len(names))
                for style in self.styles
            ]
        )
        if self.condition == "captions":
            captions = Captions([name.captions(style) for style in self.styles for _, name in rows])
            return CaptionedBytes(pixels, _as_tensor(captions.first), captions=captions)
        labels = [
            position * len(categories) + categories.index(name.category)  # type: ignore[arg-type]
            for position in range(len(self.styles))
            for _, name in rows
        ]
        return InBytes(pixels, _as_tensor(labels), len(self.styles) * len(categories))

    def _read_style(self, folder: Path, style: str, indices: Sequence[int], count: int) -> Tensor:
        """Read pictures of a style by their numbers, uint8 (n, 3, h, w)."""
        import numpy as np
        import torch
        from PIL import Image

        path = folder / f"{style}.webp"
        try:
            sheet = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        except (OSError, ValueError) as error:
            raise UserError(f"data.path: {path} cannot be read as an image ({error})") from error
        side = sheet.shape[1] // SHEET_COLUMNS
        rows = -(-count // SHEET_COLUMNS)
        if sheet.shape != (rows * side, SHEET_COLUMNS * side, 3):
            raise UserError(
                f"data.path: {path} has {sheet.shape[1]}x{sheet.shape[0]} pixels; "
                f"expected {rows} rows of {SHEET_COLUMNS} squares"
            )
        if side % self.resolution:
            finer = "" if self.resolution <= side else ", or a folder of larger pictures as data.path"
            sizes = [str(size) for size in range(4, side + 1) if side % size == 0]
            raise UserError(
                f"data.resolution: is {self.resolution}; expected {', '.join(sizes)} for pictures of "
                f"{side}x{side}{finer}"
            )
        tiles = sheet.reshape(rows, side, SHEET_COLUMNS, side, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
        return _averaged(tiles[list(indices)], side // self.resolution)


@dataclasses.dataclass(frozen=True)
class CaptionedBytes(InBytes):
    """Images in memory whose label is the position of their first caption."""

    captions: Captions = dataclasses.field(kw_only=True)


def _averaged(pixels: Tensor, factor: int) -> Tensor:
    """Average squares of factor x factor pixels, rounded to bytes."""
    from torch.nn.functional import avg_pool2d

    if factor == 1:
        return pixels.contiguous()
    return avg_pool2d(pixels.float(), factor).round().byte()


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts))


def _as_tensor(numbers: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor(numbers, dtype=torch.int64)


def read_names(folder: Path) -> list[EmojiName]:
    """Read the names of a folder, in the order of the pictures in its sheets."""
    path = folder / NAMES
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            lines = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"data.path: {path} cannot be read ({error})") from error
    if len(lines) < 2 or tuple(lines[0]) != COLUMNS:
        raise UserError(
            f"data.path: {path}: expected the columns {', '.join(COLUMNS)}, and a line for each name"
        )
    return [_read_name(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def _read_name(path: Path, number: int, line: Sequence[str]) -> EmojiName:
    """Read a line of the table of names; `number` is its number in the file."""
    if len(line) != len(COLUMNS):
        raise UserError(f"data.path: {path}:{number}: {len(line)} columns; expected {', '.join(COLUMNS)}")
    code, name, others, category, subcategory, split = line
    for column, value, allowed in (("category", category, get_args(Category)), ("split", split, SPLITS)):
        if value not in allowed:
            hint = did_you_mean(value, allowed)
            raise UserError(f"data.path: {path}:{number}: {column} is '{value}'{hint}")
    return EmojiName(code, name, tuple(filter(None, others.split("|"))), category, subcategory, split)


def write_names(names: Sequence[EmojiName], path: Path) -> None:
    """Write names as a table with tabs between its columns."""
    rows = [
        (item.code, item.name, "|".join(item.other_names), item.category, item.subcategory, item.split)
        for item in names
    ]
    lines = ["\t".join(row) for row in (COLUMNS, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
