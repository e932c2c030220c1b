"""Images in a folder; sub-folders, if there are any, are the classes, in the order of their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.data import DataSettings
from distill.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Settings(DataSettings):
    """A folder of images of one size."""

    name: Literal["image_folder"] = "image_folder"
    path: Path
    """Folder of the training images: all in it, or one sub-folder for each class."""
    held_out_path: Path | None = None
    """Folder of held-out images, laid out in the same way."""
    grey: bool = False
    """Read the images as one grey channel instead of three colour channels."""

    def load(self, split: str = "train") -> ImageFolder:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        return ImageFolder(path, self.grey)


class ImageFolder:
    """A `DataSource` over a folder. Raises UserError where it is missing, empty, or holds an image of another size."""

    def __init__(self, path: Path, grey: bool = False) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder of images")
        self.mode = "L" if grey else "RGB"
        self.classes = sorted(p.name for p in path.iterdir() if p.is_dir())
        self.files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
        if not self.files:
            raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
        self.path = path
        self.label_count = len(self.classes)
        self.image_shape = tuple(self._read(self.files[0]).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        image = self._read(file)
        if tuple(image.shape) != self.image_shape:
            raise UserError(f"{file}: an image of {tuple(image.shape)}; expected {self.image_shape} as in {self.files[0].name}")
        return image, self.classes.index(file.relative_to(self.path).parts[0]) if self.classes else 0

    def _read(self, file: Path) -> Tensor:
        import numpy as np
        import torch
        from PIL import Image, UnidentifiedImageError

        from distill.images import from_bytes

        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert(self.mode))
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{file}: cannot be read as an image ({error})") from error
        channels_last = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1).copy())
        return from_bytes(channels_last.permute(0, 3, 1, 2))[0]
