"""Images of one size in a folder or an archive; labels are what its index says, or sub-folders by number or name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.class_folders import relabelled
from distill.data.image_files import ImageFiles

if TYPE_CHECKING:
    from torch import Tensor


class Settings(DataSettings):
    """Images of one size, in a folder, a `.zip` such as EDM's `dataset_tool.py` writes, a `.tar`, or a folder of webdataset's `.tar` files."""

    name: Literal["image_folder"] = "image_folder"
    path: Path
    """The training images. Labels: EDM's `dataset.json`, webdataset's `.cls` files, or a sub-folder for each class."""
    held_out_path: Path | None = None
    """Held-out images, laid out in the same way."""
    grey: bool = False
    """Read the images as one grey channel instead of three colour channels."""

    def load(self, split: str = "train") -> ImageFolder:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        classes = () if split == "train" else ImageFiles(self.path).classes
        return ImageFolder(path, self.grey, classes)


class ImageFolder:
    """A `DataSource` over image files. Folders that are named like some of `classes`, those of the training images, have their labels.

    Raises UserError where there are none, one cannot be read, one is of another size, or what folders of them are cannot be told.
    """

    def __init__(self, path: Path, grey: bool = False, classes: tuple[str, ...] = ()) -> None:
        self.files, self.mode = ImageFiles(path), "L" if grey else "RGB"
        self.labels, self.label_count, self.classes = (
            self.files.labels,
            self.files.label_count,
            self.files.classes,
        )
        if self.files.doubt is not None:
            raise UserError(f"{path}: {self.files.doubt}")
        if classes and self.classes:
            try:
                self.labels = relabelled(self.labels, self.classes, classes)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
            self.label_count, self.classes = len(classes), classes
        self.image_shape = tuple(self._read(0).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._read(index)
        if tuple(image.shape) != self.image_shape:
            first, name = self.files.names[0], self.files.path / self.files.names[index]
            raise UserError(
                f"{name}: an image of {tuple(image.shape)}; expected {self.image_shape} as in {Path(first).name}"
            )
        return image, self.labels[index] if self.labels else 0

    def _read(self, index: int) -> Tensor:
        from distill.data.images import from_bytes

        return from_bytes(self.files.pixels(index, self.mode)[None])[0]
