"""Latents of images, with their labels or captions, that `python -m distill precompute` wrote."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.config.errors import UserError
from distill.data import Captions, DataSettings, InMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distill.data.stored_inputs import Shards

CAPTIONS = "captions.json"
ENTRIES = {"has_captions": bool, "image_shape": list, "label_count": int, "autoencoder": dict}
"""Entries of the description of latents, with their types."""
MAX_IN_MEMORY = 2 << 30
"""Bytes of latents that are held in memory; of more, each is read when it is drawn."""


class Settings(DataSettings):
    """Latents that were computed before training; the autoencoder's encoder is not needed then."""

    name: Literal["latents"] = "latents"
    path: Path
    """Folder that `python -m distill precompute` wrote. It belongs to one autoencoder; a teacher with
    another is refused."""

    @property
    def holds_latents(self) -> bool:
        return True

    def load(self, split: str = "train") -> StoredLatents | CaptionedStoredLatents | LatentFiles:
        """Open the latents of the training images."""
        from distill.data.stored_inputs import LATENTS, open_inputs
        from distill.storage.files import read_json

        if split != "train":
            raise UserError("data: latents have no held-out images; expected --data with a source of images")
        folder = self.path / LATENTS
        description, shards = open_inputs(folder, "data.path", ENTRIES)
        captions = None
        if description["has_captions"]:
            captions = Captions([tuple(captions) for captions in read_json(folder / CAPTIONS)])
        if 4 * shards.count * math.prod(description["image_shape"]) > MAX_IN_MEMORY:
            return LatentFiles(description, shards, captions)
        stored = shards.all()
        fields = (stored["x"], stored.get("label"), description["label_count"])
        autoencoder = description["autoencoder"]
        if captions is None:
            return StoredLatents(*fields, autoencoder=autoencoder)
        return CaptionedStoredLatents(*fields, autoencoder=autoencoder, captions=captions)


@dataclasses.dataclass(frozen=True)
class StoredLatents(InMemory):
    """Latents in memory."""

    autoencoder: Mapping[str, str] = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class CaptionedStoredLatents(StoredLatents):
    """Latents in memory whose label is the position of their first caption."""

    captions: Captions = dataclasses.field(kw_only=True)


class LatentFiles:
    """Latents on disk, each read when it is drawn. With captions, a label is the position of its first."""

    def __init__(self, description: dict[str, Any], shards: Shards, captions: Captions | None) -> None:
        self.shards = shards
        self.image_shape = tuple(description["image_shape"])
        self.label_count: int = description["label_count"]
        self.autoencoder: Mapping[str, str] = description["autoencoder"]
        if captions is not None:
            self.captions = captions

    def __len__(self) -> int:
        return self.shards.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.shards.row(index)
        return row["x"][0], int(row["label"]) if "label" in row else 0
