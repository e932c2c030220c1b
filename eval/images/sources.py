"""Streams of data sources and array files, by settings or by the text of a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from distill.config.config_file import describe
from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Choice
from distill.data import DataSettings
from distill.data.sources.array import read_array
from eval.images.streams import DataImages

Split = Literal["train", "held_out"]
SPLITS: dict[Split, str] = {"train": "training", "held_out": "held-out"}
NAMED_FOLDERS = (
    "has sub-folders with names, which are not known as labels; expected none, or their names to be numbers,"
)


def parse_data(text: str, flag: str = "--data") -> DataSettings:
    """Read a data source from `digits`, or `NAME:PATH` or `NAME:PATH:HELD_OUT_PATH`."""
    name, *paths = text.split(":")
    sources = Choice("data.sources")
    if name not in sources.names:
        nearest = did_you_mean(name, sources.names)
        raise UserError(f"{flag} {text}: '{name}' is not in distill/data/sources{nearest}")
    settings = sources.settings(name)
    assert issubclass(settings, DataSettings)
    if "path" not in settings.model_fields and paths:
        raise UserError(f"{flag} {text}: {name} takes no path; expected {flag} {name}")
    if "path" in settings.model_fields and (not 1 <= len(paths) <= 2 or not all(paths)):
        raise UserError(f"{flag} {text}: expected {name}:PATH or {name}:PATH:HELD_OUT_PATH")
    try:
        return settings.model_validate(dict(zip(("path", "held_out_path"), paths, strict=False)))
    except ValidationError as error:
        raise UserError(f"{flag} {text}: {describe(error, {})}") from error


def data_images(settings: DataSettings, split: Split = "train") -> DataImages:
    """Open one split of a data source."""
    identity = {**settings.model_dump(mode="json"), "split": split}
    return DataImages(settings.load(split), f"{identity['name']} {SPLITS[split]} images", identity)


def array_images(path: Path) -> DataImages:
    """Open a `.npy` or `.npz` file of uint8 images."""
    return DataImages(read_array(path), str(path), {"path": str(path.resolve())})
