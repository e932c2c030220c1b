"""Images in a NumPy file: `.npy` of images, or `.npz` with `images` and, if there are any, `labels`; ADM's names `arr_0` and `arr_1` will do too."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from distill.data import DataSettings, InMemory
from distill.errors import UserError


class Settings(DataSettings):
    """An in-memory array of uint8 images, shaped (n, h, w), (n, h, w, c) or (n, c, h, w)."""

    name: Literal["array"] = "array"
    path: Path
    """The `.npy` or `.npz` file of the training images."""
    held_out_path: Path | None = None
    """The file of the held-out images."""

    def load(self, split: str = "train") -> InMemory:
        """Open `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out file is given")
        return read_array(path)


def read_array(path: Path) -> InMemory:
    """Read an array file. Raises UserError where it is missing, broken, or not of uint8 images."""
    import numpy as np
    import torch

    from distill.images import from_bytes

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as handle:
            loaded = np.load(handle, allow_pickle=False)
            content = loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as a NumPy file ({error})") from error
    arrays = {"images": content} if isinstance(content, np.ndarray) else content
    images, labels = arrays.get("images", arrays.get("arr_0")), arrays.get("labels", arrays.get("arr_1"))
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        found = "none" if images is None else f"{images.dtype} {images.shape}"
        raise UserError(f"{path}: 'images' is {found}; expected uint8 of (n, h, w), (n, h, w, c) or (n, c, h, w)")
    pixels = torch.from_numpy(images[:, None] if images.ndim == 3 else images)
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] not in (1, 3):
        raise UserError(f"{path}: 'images' is {images.dtype} {images.shape}; expected 1 or 3 channels")
    if labels is None:
        return InMemory(from_bytes(pixels), None)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(f"{path}: 'labels' is {labels.dtype} {labels.shape}; expected {len(images)} integers, none below 0")
    return InMemory(from_bytes(pixels), torch.from_numpy(labels.astype(np.int64)), int(labels.max()) + 1)
