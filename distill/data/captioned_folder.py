"""Images with captions in a folder: a text file of the same name beside each image, or one `metadata.jsonl` for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.data import DataSettings
from distill.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
METADATA = "metadata.jsonl"


class Settings(DataSettings):
    """A folder of captioned images of any size."""

    name: Literal["captioned_folder"] = "captioned_folder"
    path: Path
    """Folder of the training images: `metadata.jsonl` with `file_name` and `text` in each line, or `x.txt` beside each `x.jpg`."""
    resolution: int = Field(ge=1)
    """Pixels of height and width: images are scaled until they cover that square, and cropped at the centre."""
    held_out_path: Path | None = None
    """Folder of held-out images, laid out in the same way."""

    def load(self, split: str = "train") -> CaptionedFolder:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        return CaptionedFolder(path, self.resolution)


class CaptionedFolder:
    """A `DataSource` whose label of an image is the number of its caption, which is its own. Raises UserError where something is missing."""

    label_count = 0

    def __init__(self, path: Path, resolution: int) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder of images")
        self.image_shape = (3, resolution, resolution)
        texts = _read_metadata(path) if (path / METADATA).is_file() else _read_neighbours(path)
        if not texts:
            raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
        self.files, self.captions = list(texts), list(texts.values())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import numpy as np
        import torch
        from PIL import Image, UnidentifiedImageError

        from distill.images import from_bytes

        try:
            with Image.open(self.files[index]) as image:
                pixels = np.asarray(cover(image.convert("RGB"), self.image_shape[1]))
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{self.files[index]}: cannot be read as an image ({error})") from error
        return from_bytes(torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2))[0], index


def cover(image: Image, side: int) -> Image:
    """The central square of an image, scaled to side x side."""
    from PIL.Image import Resampling

    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    return image.crop((left, top, left + square, top + square)).resize((side, side), Resampling.LANCZOS)


def _read_metadata(path: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for number, line in enumerate((path / METADATA).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            file, text = path / entry["file_name"], entry["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path / METADATA}, line {number}: expected a JSON object with 'file_name' and 'text'") from error
        if not file.is_file():
            raise UserError(f"{path / METADATA}, line {number}: {file} is not there")
        texts[file] = text
    return texts


def _read_neighbours(path: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS):
        caption = file.with_suffix(".txt")
        if not caption.is_file():
            raise UserError(f"{file}: has no caption; expected {caption.name} beside it, or {METADATA} in {path}")
        texts[file] = caption.read_text(encoding="utf-8").strip()
    return texts
