"""Images one after another, as bytes, from files or from networks, however many there are and whatever their sizes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distill.data import DataSource
from distill.data.image_folder import ENDINGS
from distill.encoded_prompts import EncodedPrompts
from distill.errors import UserError
from distill.files import weights_sha256
from distill.images import to_bytes
from distill.sample_files import INDEX
from distill.samplers import Heun
from distill.sampling import sample_generator, sample_teacher
from distill.types import Condition, Denoiser, Generator
from eval.archives import Files, open_files

GREY = {"1", "L", "LA", "La"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L"}
"""Pillow's modes of one channel, and of more than a byte for each."""
EDM_INDEX = "dataset.json"


@runtime_checkable
class ImageStream(Protocol):
    """Images by their rows. `describe` says what all depend on, and `stamp` what an image depends on besides, without its being decoded."""

    origin: str
    label_count: int

    def __len__(self) -> int: ...
    def describe(self) -> dict[str, Any]: ...
    def name(self, row: int) -> str: ...
    def stamp(self, row: int) -> str: ...
    def label(self, row: int) -> int: ...
    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]: ...


class ImageFiles:
    """The images of a folder, a `.zip`, a `.tar` or a folder of `.tar` files, by name.

    Labels are sub-folders, or what webdataset's `.cls` files, EDM's `dataset.json` or the index of `sample.py` say.
    An image that cannot be read is given as the UserError that says so. Raises UserError where there are no images at all.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.origin = path, str(path)
        with open_files(path) as files:
            stamps = files.stamps()
            self.stamps = {name: stamp for name, stamp in stamps.items() if Path(name).suffix.lower() in ENDINGS}
            self.names = sorted(self.stamps)
            if not self.names:
                raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
            self.labels = self._labels(files, set(stamps))
        self.label_count = max(self.labels.values(), default=-1) + 1

    def __len__(self) -> int:
        return len(self.names)

    def keep(self, count: int) -> None:
        """Leave all but the first images out."""
        self.names = self.names[:count]

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "path": str(self.path.resolve())}

    def name(self, row: int) -> str:
        return self.names[row]

    def stamp(self, row: int) -> str:
        return f"{self.names[row]} {self.stamps[self.names[row]]}"

    def label(self, row: int) -> int:
        return self.labels[self.names[row]]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        with open_files(self.path) as files:
            for row in rows:
                try:
                    yield decode(files.read(self.names[row]))
                except UnidentifiedImageError:
                    yield UserError(f"{self.path / self.names[row]}: cannot be read as an image (of no kind that Pillow knows)")
                except (OSError, ValueError, KeyError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
                    yield UserError(f"{self.path / self.names[row]}: cannot be read as an image ({error})")

    def _labels(self, files: Files, names: set[str]) -> dict[str, int]:
        """The label of every image, or of none."""
        if INDEX in names:
            return self._listed_by_sample_py(files)
        if EDM_INDEX in names:
            return self._listed_by_edm(files)
        classes = {name: str(PurePosixPath(name).with_suffix(".cls")) for name in self.names}
        if names.issuperset(classes.values()):
            return {name: self._class(files, of) for name, of in classes.items()}
        folders = sorted({name.split("/")[0] for name in self.names}) if all("/" in name for name in self.names) else []
        return {name: folders.index(name.split("/")[0]) for name in self.names if len(folders) > 1}

    def _class(self, files: Files, name: str) -> int:
        try:
            return int(files.read(name))
        except ValueError as error:
            raise UserError(f"{self.path / name}: holds no number; expected the label of an image") from error

    def _listed_by_sample_py(self, files: Files) -> dict[str, int]:
        """The labels that `sample.py` wrote, by its index, which leaves its grid out."""
        try:
            records = json.loads(files.read(INDEX))["images"]
            labels = {record["file"]: -1 if record["label"] is None else record["label"] for record in records}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / INDEX}: is not what sample.py writes; expected 'images' of 'file' and 'label'") from error
        for name in labels.keys() - self.stamps.keys():
            raise UserError(f"{self.path}: holds no {name}, which its {INDEX} lists")
        self.names = list(labels)
        return labels

    def _listed_by_edm(self, files: Files) -> dict[str, int]:
        """The labels in the `dataset.json` of EDM's `dataset_tool.py`."""
        try:
            labels = {name: int(label) for name, label in json.loads(files.read(EDM_INDEX))["labels"] or ()}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / EDM_INDEX}: is not EDM's; expected 'labels' of pairs of a file and a number") from error
        return labels if labels.keys() >= self.stamps.keys() else {}


def decode(content: bytes) -> UInt8[Tensor, "c h w"]:
    """An image file's pixels: one channel where it is grey, else three. Raises ValueError for more than a byte a channel, and as Pillow does."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode in DEEP:
            raise ValueError(f"mode {image.mode}; expected 8 bits a channel")
        pixels = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


class DataImages:
    """The images of a data source. `identity` says which."""

    def __init__(self, source: DataSource, origin: str, identity: dict[str, Any]) -> None:
        self.source, self.origin, self.identity, self.label_count, self.count = source, origin, identity, source.label_count, len(source)

    def __len__(self) -> int:
        return self.count

    def keep(self, count: int) -> None:
        """Leave all but the first images out."""
        self.count = count

    def describe(self) -> dict[str, Any]:
        return {"kind": "data", **self.identity}

    def name(self, row: int) -> str:
        return f"image {row}"

    def stamp(self, row: int) -> str:
        image, label = self.source[row]
        return f"{label} {hashlib.sha256(image.numpy().tobytes()).hexdigest()}"

    def label(self, row: int) -> int:
        return self.source[row][1]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for row in rows:
            yield to_bytes(self.source[row][0][None])[0]


class NetworkImages:
    """`count` images of a network, row i from the seed first_seed + i alone, its label or prompt by turns.

    `sampler` makes it a teacher's. An image that is not finite is given as the UserError that says so.
    """

    def __init__(
        self,
        network: Generator | Denoiser,
        count: int,
        first_seed: int = 0,
        sampler: Heun | None = None,
        prompts: EncodedPrompts | None = None,
        batch_size: int = 256,
    ) -> None:
        self.network, self.count, self.first_seed, self.sampler, self.prompts = network, count, first_seed, sampler, prompts
        self.batch_size, self.label_count = batch_size, 0 if prompts else network.label_count
        self.origin = "the student" if sampler is None else "the teacher"
        self.sha256 = weights_sha256(network)

    def __len__(self) -> int:
        return self.count

    def describe(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"kind": "network", "weights_sha256": self.sha256, "first_seed": self.first_seed}
        if self.sampler is not None:
            identity["sampler"] = self.sampler.model_dump(mode="json")
        if self.prompts is not None:
            identity["prompts"] = len(self.prompts)
            identity["prompts_sha256"] = hashlib.sha256(json.dumps([self.prompts.encoder, *self.prompts.prompts]).encode()).hexdigest()
        return identity

    def name(self, row: int) -> str:
        return f"the image of seed {self.first_seed + row}"

    def stamp(self, row: int) -> str:
        return str(self.first_seed + row)

    def label(self, row: int) -> int:
        return row % self.label_count

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            for row, image in zip(batch, self._sample(batch), strict=True):
                if image.isfinite().all():
                    yield to_bytes(image[None])[0]
                else:
                    yield UserError(f"{self.origin}: {self.name(row)} has values that are not finite")

    def _sample(self, rows: Sequence[int]) -> Tensor:
        seeds, number = [self.first_seed + row for row in rows], torch.tensor(list(rows))
        if self.prompts is not None:
            cond = self.prompts(number % len(self.prompts))
        else:
            cond = Condition(number % self.label_count if self.label_count else None)
        if self.sampler is not None:
            return sample_teacher(self.network, seeds, cond, self.sampler, self.batch_size)  # type: ignore[arg-type]
        return sample_generator(self.network, seeds, cond, self.batch_size)  # type: ignore[arg-type]
