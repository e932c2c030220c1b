"""Images in a NumPy file: `.npy` of images, or `.npz` of images and, optionally, labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.archives import UNREADABLE_ARRAYS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Int64, UInt8
    from numpy.lib.npyio import NpzFile
    from torch import Tensor


class Settings(DataSettings):
    """uint8 images in a NumPy file, held in memory as bytes."""

    name: Literal["array"] = "array"
    path: Path
    """File of the training images: `.npy` of images, or `.npz` with `images` and, optionally, `labels` (or
    `arr_0` and `arr_1`, the names of ADM). Images are uint8 of shape (n, h, w), (n, h, w, c) or (n, c, h, w)
    with 1 or 3 channels; labels are n whole numbers from 0."""
    held_out_path: Path | None = None
    """File of held-out images in the same form, for the evaluation. null, the default, if there are none."""

    @property
    def has_held_out(self) -> bool:
        return self.held_out_path is not None

    def load(self, split: str = "train") -> InBytes:
        """Open the split `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out file is given")
        return read_array(path)


@dataclasses.dataclass(frozen=True)
class InBytes:
    """A `DataSource` of bytes in memory: uint8 images (n, c, h, w), and int64 labels (n,) or None.

    An image is converted to numbers in [-1, 1] when it is read.
    """

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"] | None
    label_count: int = 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from distill.data.images import from_bytes

        return from_bytes(self.pixels[index][None])[0], 0 if self.labels is None else int(self.labels[index])

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def to(self, device: torch.device) -> InBytes:
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, pixels=self.pixels.to(device), labels=labels)

    def batch(self, indices: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        from distill.data.images import from_bytes

        labels = indices.new_zeros(len(indices)) if self.labels is None else self.labels[indices]
        return from_bytes(self.pixels[indices]), labels


def read_array(path: Path) -> InBytes:
    """Read a NumPy file of uint8 images; they take one byte of memory a value."""
    import numpy as np
    import torch

    images, labels = _load(path)
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        found = "not there" if images is None else f"{images.dtype} {images.shape}"
        raise UserError(
            f"{path}: 'images' is {found}; expected uint8 of (n, h, w), (n, h, w, c) or (n, c, h, w)"
        )
    pixels = torch.from_numpy(images[:, None] if images.ndim == 3 else images)
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] not in (1, 3):
        raise UserError(f"{path}: 'images' is {images.dtype} {images.shape}; expected 1 or 3 channels")
    if labels is None:
        return InBytes(pixels, None)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        found = f"{labels.dtype} {labels.shape}"
        raise UserError(f"{path}: 'labels' is {found}; expected {len(images)} integers, none below 0")
    return InBytes(pixels, torch.from_numpy(labels.astype(np.int64)), int(labels.max()) + 1)


def _load(path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the arrays of images and of labels, each None if it is missing; other arrays are not read."""
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as handle:
            loaded = np.load(handle, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            return _find_array(loaded, "images", "arr_0"), _find_array(loaded, "labels", "arr_1")
    except UNREADABLE_ARRAYS as error:
        reason = str(error) or "it is larger than the memory"
        raise UserError(f"{path}: cannot be read as a NumPy file ({reason})") from error


def _find_array(arrays: NpzFile, *names: str) -> np.ndarray | None:
    for name in names:
        if name in arrays.files:
            return arrays[name]
    return None
