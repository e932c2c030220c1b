"""Images in a NumPy file: `.npy` of images, or `.npz` with `images` and, if there are any, `labels`; ADM's names `arr_0` and `arr_1` will do too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.archives import UNREADABLE_ARRAYS

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor


class Settings(DataSettings):
    """An array of uint8 images, held in memory as bytes, shaped (n, h, w), (n, h, w, c) or (n, c, h, w)."""

    name: Literal["array"] = "array"
    path: Path
    """The `.npy` or `.npz` file of the training images."""
    held_out_path: Path | None = None
    """The file of the held-out images."""

    def load(self, split: str = "train") -> InBytes:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out file is given")
        return read_array(path)


@dataclasses.dataclass(frozen=True)
class InBytes:
    """A `DataSource` over images (n, c, h, w) of bytes and int64 labels (n,), or None: an image becomes numbers in [-1, 1] when it is asked for."""

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


def read_array(path: Path) -> InBytes:
    """Read an array file; the images take as much memory as their bytes. Raises UserError where it is missing, broken, or not of uint8 images."""
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
        raise UserError(
            f"{path}: 'labels' is {labels.dtype} {labels.shape}; expected {len(images)} integers, none below 0"
        )
    return InBytes(pixels, torch.from_numpy(labels.astype(np.int64)), int(labels.max()) + 1)


def _load(path: Path) -> tuple[Any, Any]:
    """The arrays of images and of labels, None where there are none; others in the file are not read."""
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as handle:
            loaded = np.load(handle, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            names = [
                next((name for name in known if name in loaded.files), None)
                for known in (("images", "arr_0"), ("labels", "arr_1"))
            ]
            images, labels = (None if name is None else loaded[name] for name in names)
            return images, labels
    except UNREADABLE_ARRAYS as error:
        raise UserError(
            f"{path}: cannot be read as a NumPy file ({str(error) or 'it is larger than the memory'})"
        ) from error
