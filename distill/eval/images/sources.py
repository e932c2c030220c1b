"""Streams of data sources and array files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.sources.array import read_array
from distill.eval.images.streams import DataImages

Split = Literal["train", "held_out"]
SPLITS: dict[Split, str] = {"train": "training", "held_out": "held-out"}
NAMED_FOLDERS = (
    "has sub-folders with names, which are not known as labels; expected none, or their names to be numbers,"
)


def data_images(settings: DataSettings, split: Split = "train", flag: str = "--data") -> DataImages:
    """Open one split of a data source. `flag` is what a message asks for in its place."""
    if settings.holds_latents:
        raise UserError(f"{flag}: the data are latents, and images are compared; expected real images")
    identity = {**settings.model_dump(mode="json"), "split": split}
    return DataImages(settings.load(split), f"{identity['name']} {SPLITS[split]} images", identity)


def array_images(path: Path) -> DataImages:
    """Open a `.npy` or `.npz` file of uint8 images."""
    return DataImages(read_array(path), str(path), {"path": str(path.resolve())})
