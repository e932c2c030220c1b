"""Image files in a folder or an archive, by name, and what stands beside them: labels and captions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import weakref
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from distill.archives import Files, open_files, plain_name, read_member
from distill.errors import UserError
from distill.text_files import decode_text, json_lines

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
}
"""Endings of the images that are read; of a moving one the first frame."""
UNREADABLE_ENDINGS = {".heic", ".heif", ".svg", ".psd", ".exr", ".hdr", ".dng", ".nef", ".cr2", ".arw", ".raw", ".jxl", ".xcf"}
"""Endings of images that are not read: a folder that holds one is refused, so that none is left out without a word."""
MAX_LABEL = 1_000_000
INDEX, EDM_INDEX, METADATA = "samples.json", "dataset.json", "metadata.jsonl"
"""What `sample.py`, EDM's `dataset_tool.py` and captioned folders of the `datasets` library list their images in."""

COMPLAINT = "cannot be read as an image"


class ImageFiles:
    """The images of a folder, a `.zip`, a `.tar` or a folder of `.tar` files, by name, and the label of each where all have one.

    Labels are what the index of `sample.py`, EDM's `dataset.json` or webdataset's `.cls` files say; otherwise sub-folders, if there are several:
    their numbers, where all names are numbers, else their places in the order of their names, and `numbered` is false. `records` are what the
    index of `sample.py` says of each. Files and folders whose names begin with a dot, such as macOS and Jupyter put beside others, are left out.
    Raises UserError where there are no images at all, or some of a kind that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.numbered = path, True
        self._opened: tuple[int, Files] | None = None
        self._all = self._files().stamps()
        self.names = sorted(name for name in self._all if _is_image(name))
        left_out = next((name for name in sorted(self._all) if _has_ending(name, UNREADABLE_ENDINGS)), None)
        if left_out is not None:
            raise UserError(f"{path / left_out}: is of a kind that cannot be read; expected it as PNG, or elsewhere")
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
        """What changes when the content of an image's file does: its name and its hash. One that cannot be read has a stamp of its own."""
        try:
            return f"{self.names[row]} {hashlib.sha256(self.content(row)).hexdigest()}"
        except UserError:
            return f"{self.names[row]} cannot be read"

    def content(self, row: int) -> bytes:
        """The file of an image as it is. Raises UserError where it cannot be read."""
        return read_member(self._files(), self.names[row], self.path, COMPLAINT)

    def pixels(self, row: int, mode: str | None = None, upright: bool = True) -> Tensor:
        """The bytes (c, h, w) of an image, in Pillow's `mode`, or of one channel where it is grey and else of three, turned as its EXIF says unless
        `upright` is false.

        Raises UserError where it cannot be read.
        """
        from distill.images import decode

        content = self.content(row)
        try:
            return decode(content, mode, upright)
        except ValueError as error:
            raise UserError(f"{self.path / self.names[row]}: {COMPLAINT} ({error})") from error

    def read_captions(self) -> list[tuple[str, ...]]:
        """The captions of each image: a text file of the same name beside it, or its lines of `metadata.jsonl`, which leaves others out.

        Raises UserError where one is missing, or is no text.
        """
        if METADATA in self._all:
            captions = self._listed_in_metadata()
            self.names, self.labels, self.records = list(captions), [], []
            return [tuple(several) for several in captions.values()]
        return [(self._caption_beside(name),) for name in self.names]

    def _caption_beside(self, name: str) -> str:
        beside = str(PurePosixPath(name).with_suffix(".txt"))
        if beside not in self._all:
            raise UserError(f"{self.path / name}: has no caption; expected {Path(beside).name} beside it, or {METADATA} in {self.path}")
        caption = self._text(beside).strip()
        if not caption:
            raise UserError(f"{self.path / beside}: is blank; expected the caption of {Path(name).name}")
        return caption

    def _text(self, name: str) -> str:
        return decode_text(read_member(self._files(), name, self.path), str(self.path / name))

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
        classes = {name: str(PurePosixPath(name).with_suffix(".cls")) for name in self.names}
        if any(beside in self._all for beside in classes.values()):
            return [self._read_class(name, beside) for name, beside in classes.items()]
        folders = sorted({name.split("/")[0] for name in self.names}) if all("/" in name for name in self.names) else []
        self.numbered = bool(folders) and all(folder.isascii() and folder.isdigit() for folder in folders)
        if len(folders) < 2:
            return []
        if not self.numbered:
            return [folders.index(name.split("/")[0]) for name in self.names]
        numbers = {int(folder): folder for folder in folders}
        if len(numbers) < len(folders):
            twice = next(folder for folder in folders if numbers[int(folder)] != folder)
            raise UserError(f"{self.path}: folders {twice} and {numbers[int(twice)]} have one number; expected a folder for each class")
        return [self._label(int(name.split("/")[0]), name) for name in self.names]

    def _label(self, label: Any, name: str) -> int:
        """Raises UserError where this is no label."""
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL:
            raise UserError(f"{self.path / name}: its label is {label!r}; expected a number from 0 to {MAX_LABEL}")
        return label

    def _read_class(self, name: str, beside: str) -> int:
        if beside not in self._all:
            raise UserError(f"{self.path / name}: has no label; expected {Path(beside).name} beside it, as others have one")
        text = self._text(beside).strip()
        try:
            return self._label(int(text), name)
        except ValueError as error:
            raise UserError(f"{self.path / beside}: holds {text[:40]!r}; expected the number of a class") from error

    def _listed_by_sample_py(self) -> list[int]:
        """The labels of `sample.py`, whose index leaves its grid out."""
        try:
            records = json.loads(self._text(INDEX))["images"]
            labels = {record["file"]: record["label"] for record in records}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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
            pairs = json.loads(self._text(EDM_INDEX))["labels"] or ()
            labels = {plain_name(name): label for name, label in pairs}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.path / EDM_INDEX}: is not EDM's; expected 'labels' of pairs of a file and a number") from error
        if not labels:
            return []
        for name in self.names:
            if name not in labels:
                raise UserError(f"{self.path / EDM_INDEX}: lists no label for {name}; expected one for every image")
        for name in labels.keys() - set(self.names):
            raise UserError(f"{self.path / EDM_INDEX}: lists {name}, which is not there")
        return [self._label(labels[name], name) for name in self.names]

    def _listed_in_metadata(self) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {}
        expected = "expected a JSON object with 'file_name' and 'text'"
        for place, entry in json_lines(self._text(METADATA), str(self.path / METADATA), expected):
            if not isinstance(entry.get("file_name"), str) or "text" not in entry:
                raise UserError(f"{place}: {expected}")
            name = plain_name(entry["file_name"])
            if name not in self._all:
                raise UserError(f"{place}: {self.path / name} is not there")
            captions.setdefault(name, []).extend(captions_of(entry["text"], f"{place}: 'text'"))
        return captions


def captions_of(value: Any, place: str) -> tuple[str, ...]:
    """The captions of one image: a text, or a list of some. Raises UserError, which begins with `place`, for anything else."""
    captions = value if isinstance(value, (list, tuple)) and value else (value,)
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{place} is {caption!r}; expected a caption")
    return tuple(captions)


def _is_image(name: str) -> bool:
    return _has_ending(name, ENDINGS)


def _has_ending(name: str, endings: Set[str]) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in endings and not any(part.startswith(".") for part in path.parts)
