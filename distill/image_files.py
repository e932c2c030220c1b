"""Image files in a folder or an archive, by name, and what stands beside them: labels and captions."""

from __future__ import annotations

import contextlib
import json
import os
import weakref
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from distill.archives import Files, open_files
from distill.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
INDEX, EDM_INDEX, METADATA = "samples.json", "dataset.json", "metadata.jsonl"
"""What `sample.py`, EDM's `dataset_tool.py` and captioned folders of the `datasets` library list their images in."""


class ImageFiles:
    """The images of a folder, a `.zip`, a `.tar` or a folder of `.tar` files, by name, and the label of each where all have one.

    Labels are what the index of `sample.py`, EDM's `dataset.json` or webdataset's `.cls` files say; otherwise sub-folders, if there are several, in
    the order of their names, and `numbered` is false. `records` are what the index of `sample.py` says of each. Files and folders whose names begin
    with a dot, such as macOS and Jupyter put beside others, are left out. Raises UserError where there are no images at all.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.numbered = path, True
        self._opened: tuple[int, Files] | None = None
        self._all = self._files().stamps()
        self.names = sorted(name for name in self._all if _is_image(name))
        if not self.names:
            raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
        self.records: list[dict[str, Any]] = []
        self.labels = self._read_labels()
        self.label_count = max(self.labels, default=-1) + 1

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def keep(self, count: int) -> None:
        """Leave all but the first images out."""
        self.names, self.labels, self.records = self.names[:count], self.labels[:count], self.records[:count]

    def stamp(self, row: int) -> str:
        """What changes when the file of an image does."""
        return f"{self.names[row]} {self._all[self.names[row]]}"

    def content(self, row: int) -> bytes:
        """The file of an image as it is. Raises OSError, or what the archive raises, where it cannot be read."""
        return self._files().read(self.names[row])

    def pixels(self, row: int, mode: str | None = None) -> Tensor:
        """The bytes (c, h, w) of an image, in Pillow's `mode`, or of one channel where it is grey and else of three.

        Raises UserError where it cannot be read.
        """
        from distill.images import decode

        try:
            return decode(self.content(row), mode)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path / self.names[row]}: cannot be read as an image ({reason})") from error

    def read_captions(self) -> list[str]:
        """The caption of each image: a text file of the same name beside it, or its line of `metadata.jsonl`, which leaves others out.

        Raises UserError where one is missing.
        """
        if METADATA in self._all:
            captions = self._listed_in_metadata()
            self.names, self.labels, self.records = list(captions), [], []
            return list(captions.values())
        beside = [str(PurePosixPath(name).with_suffix(".txt")) for name in self.names]
        for name, text in zip(self.names, beside, strict=True):
            if text not in self._all:
                raise UserError(f"{self.path / name}: has no caption; expected {Path(text).name} beside it, or {METADATA} in {self.path}")
        return [self._files().read(text).decode(errors="replace").strip() for text in beside]

    def _files(self) -> Files:
        """The files as this process has them open: a handle that came with a fork is its parent's."""
        if self._opened is None or self._opened[0] != os.getpid():
            stack = contextlib.ExitStack()
            self._opened = os.getpid(), stack.enter_context(open_files(self.path))
            weakref.finalize(self, stack.close)
        return self._opened[1]

    def _read_labels(self) -> list[int]:
        """The label of every image, or of none."""
        if INDEX in self._all:
            return self._listed_by_sample_py()
        if EDM_INDEX in self._all:
            return self._listed_by_edm()
        classes = [str(PurePosixPath(name).with_suffix(".cls")) for name in self.names]
        if self._all.keys() >= set(classes):
            return [self._read_class(name) for name in classes]
        self.numbered = False
        folders = sorted({name.split("/")[0] for name in self.names}) if all("/" in name for name in self.names) else []
        return [folders.index(name.split("/")[0]) for name in self.names] if len(folders) > 1 else []

    def _read_class(self, name: str) -> int:
        try:
            return int(self._files().read(name))
        except ValueError as error:
            raise UserError(f"{self.path / name}: holds no number; expected the label of an image") from error

    def _listed_by_sample_py(self) -> list[int]:
        """The labels of `sample.py`, whose index leaves its grid out."""
        try:
            records = json.loads(self._files().read(INDEX))["images"]
            labels = {record["file"]: record["label"] for record in records}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / INDEX}: is not what sample.py writes; expected 'images' of 'file' and 'label'") from error
        if not labels:
            raise UserError(f"{self.path / INDEX}: lists no images")
        for name in labels.keys() - self._all.keys():
            raise UserError(f"{self.path}: holds no {name}, which its {INDEX} lists")
        self.names, self.records = list(labels), records
        known = all(isinstance(label, int) and label >= 0 for label in labels.values())
        return list(labels.values()) if known else []

    def _listed_by_edm(self) -> list[int]:
        try:
            labels = {name: int(label) for name, label in json.loads(self._files().read(EDM_INDEX))["labels"] or ()}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / EDM_INDEX}: is not EDM's; expected 'labels' of pairs of a file and a number") from error
        return [labels[name] for name in self.names] if labels.keys() >= set(self.names) else []

    def _listed_in_metadata(self) -> dict[str, str]:
        captions: dict[str, str] = {}
        for number, line in enumerate(self._files().read(METADATA).decode().splitlines(), start=1):
            try:
                entry = json.loads(line)
                captions[entry["file_name"]] = entry["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path / METADATA}, line {number}: expected a JSON object with 'file_name' and 'text'") from error
            if entry["file_name"] not in self._all:
                raise UserError(f"{self.path / METADATA}, line {number}: {self.path / entry['file_name']} is not there")
        return captions


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in ENDINGS and not any(part.startswith(".") for part in PurePosixPath(name).parts)
