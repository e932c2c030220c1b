"""Images with captions in a folder or an archive: a text file of the same name beside each image, or one `metadata.jsonl` for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.data import Captions, DataSettings
from distill.data.image_files import ImageFiles

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Settings(DataSettings):
    """Captioned images of any size, in a folder, a `.zip`, a `.tar`, or a folder of webdataset's `.tar` files."""

    name: Literal["captioned_folder"] = "captioned_folder"
    path: Path
    """The training images: `metadata.jsonl` with `file_name` and `text` in each line, or `x.txt` beside each `x.jpg`."""
    resolution: int = Field(ge=1)
    """Pixels of height and width: images are scaled until they cover that square, and cropped at the centre."""
    held_out_path: Path | None = None
    """Held-out images, laid out in the same way."""

    def load(self, split: str = "train") -> CaptionedFolder:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        return CaptionedFolder(path, self.resolution)


class CaptionedFolder:
    """A `DataSource` whose label of an image is the number of its first caption. Raises UserError where something is missing."""

    label_count = 0

    def __init__(self, path: Path, resolution: int) -> None:
        self.files, self.image_shape = ImageFiles(path), (3, resolution, resolution)
        self.captions = Captions(self.files.read_captions())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return covering(self.files.pixels(index, "RGB"), self.image_shape[1]), self.captions.first[index]


def covering(pixels: Tensor, side: int) -> Tensor:
    """The central square of an image (3, h, w) in bytes, scaled to side x side, in [-1, 1]."""
    import numpy as np
    import torch

    from distill.data.images import from_bytes, to_pil

    square = np.asarray(cover(to_pil(pixels), side))
    return from_bytes(torch.from_numpy(square.copy())[None].permute(0, 3, 1, 2))[0]


def cover(image: Image, side: int) -> Image:
    """The central square of an image, scaled to side x side."""
    from PIL.Image import Resampling

    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    return image.crop((left, top, left + square, top + square)).resize((side, side), Resampling.LANCZOS)
