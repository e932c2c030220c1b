"""Images in a folder or an archive, with labels from an index or from sub-folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.class_folders import relabelled
from distill.data.image_files import ImageFiles

if TYPE_CHECKING:
    from torch import Tensor


class Settings(DataSettings):
    """Images in a folder or an archive, with or without class labels."""

    name: Literal["image_folder"] = "image_folder"
    path: Path
    """Training images: a folder, a `.zip` (such as EDM's `dataset_tool.py` writes), a `.tar`, or a folder of
    webdataset's `.tar` files. Labels come from `samples.json` of `sample.py`, EDM's `dataset.json`,
    webdataset's `.cls` files, or a sub-folder for each class; without any of these there are none."""
    held_out_path: Path | None = None
    """Held-out images in the same form, for the evaluation. null, the default, if there are none."""
    grey: bool = False
    """Read images as one grey channel. The default, false, reads three colour channels, also from grey files.
    Choose what the teacher generates."""

    resolution: int | None = Field(None, ge=1)
    """Height and width in pixels to which the central square of every image is scaled. null, the default,
    reads images as they are, all of one size."""

    @property
    def has_held_out(self) -> bool:
        return self.held_out_path is not None

    def class_names(self) -> tuple[str, ...]:
        return ImageFiles(self.path).classes

    def load(self, split: str = "train") -> ImageFolder:
        """Open the split `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        classes = () if split == "train" else ImageFiles(self.path).classes
        return ImageFolder(path, self.grey, classes, self.resolution)


class ImageFolder:
    """A `DataSource` over image files.

    Folders named like some of `classes`, those of the training images, get the same labels. Folders that may
    or may not be classes are refused, and without a `resolution` images of different sizes too.
    """

    def __init__(
        self, path: Path, grey: bool = False, classes: tuple[str, ...] = (), resolution: int | None = None
    ) -> None:
        self.resolution = resolution
        self.files = ImageFiles(path)
        self.mode = "L" if grey else "RGB"
        self.labels = self.files.labels
        self.label_count = self.files.label_count
        self.classes = self.files.classes
        if self.files.doubt is not None:
            raise UserError(f"{path}: {self.files.doubt}")
        if classes and self.classes:
            try:
                self.labels = relabelled(self.labels, self.classes, classes)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
            self.label_count = len(classes)
            self.classes = classes
        self.image_shape = tuple(self._read(0).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._read(index)
        if tuple(image.shape) != self.image_shape:
            place = self.files.path / self.files.names[index]
            first = Path(self.files.names[0]).name
            raise UserError(
                f"{place}: an image of {tuple(image.shape)}; expected {self.image_shape} as in {first}, "
                "or a data.resolution to which all are scaled"
            )
        return image, self.labels[index] if self.labels else 0

    def _read(self, index: int) -> Tensor:
        from distill.data.images import central_square, from_bytes

        pixels = self.files.pixels(index, self.mode)
        if self.resolution is None:
            return from_bytes(pixels[None])[0]
        return central_square(pixels, self.resolution)
