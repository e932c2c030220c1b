"""Image files in a folder or an archive, by name, and what stands beside them: labels and captions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError
from distill.config.text_files import csv_lines, decode_text, is_text, json_lines
from distill.data.archives import Files, Folder, open_files, plain_name, read_member
from distill.data.class_folders import class_folders, shared_folder

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif"),
}
"""Endings of the images that are read; of a moving one the first frame."""
UNREADABLE_ENDINGS = {
    *(
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".jxr",
        ".ico",
        ".icns",
        ".svg",
        ".eps",
        ".psd",
        ".xcf",
        ".exr",
        ".hdr",
        ".dds",
        ".pcx",
        ".sgi",
        ".fits",
    ),
    *(".raw", ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef"),
}
"""Endings of images that are not read: a folder that holds one is refused, so that none is left out without a word."""
MAX_LABEL = 1_000_000
INDEX, EDM_INDEX, METADATA, METADATA_CSV = "samples.json", "dataset.json", "metadata.jsonl", "metadata.csv"
"""What `sample.py`, EDM's `dataset_tool.py` and captioned folders of the `datasets` library list their images in."""

COMPLAINT = "cannot be read as an image"


class ImageFiles:
    """The images of a folder, a `.zip`, a `.tar` or a folder of `.tar` files, by name, and the label of each where all have one.

    Labels are what the index of `sample.py`, EDM's `dataset.json` or webdataset's `.cls` files say; otherwise the sub-folders of the folder that
    all share, if there are several: their numbers, where all names are numbers, else their places among `classes`, their names in order. `doubt`
    says why folders that might be classes are not taken for any. `records` are what the index of `sample.py` says of each. Files and folders whose
    names begin with a dot, such as macOS and Jupyter put beside others, are left out. Raises UserError where there are no images at all, some of a
    kind that cannot be read, or some beside archives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, Files] | None = None
        self._all = self._files().stamps()
        self.names = sorted(name for name in self._all if _is_image(name))
        left_out = next((name for name in sorted(self._all) if _has_ending(name, UNREADABLE_ENDINGS)), None)
        if left_out is not None:
            raise UserError(
                f"{path / left_out}: is of a kind that cannot be read; expected it as PNG, or elsewhere"
            )
        beside = (
            next((name for name in sorted(Folder(path).stamps()) if _is_image(name)), None)
            if path.is_dir() and not self._is_folder()
            else None
        )
        if beside is not None:
            raise UserError(
                f"{path / beside}: lies beside .tar files; expected images in archives or beside them, not both"
            )
        if not self.names:
            raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
        self.records: list[dict[str, Any]] = []
        self.classes: tuple[str, ...] = ()
        self.doubt: str | None = None
        self.labels = self._read_labels()
        self.label_count = max(self.labels, default=-1) + 1

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def keep(self, rows: Sequence[int]) -> None:
        """Leave all but these images out."""
        self.names = [self.names[row] for row in rows]
        self.labels = [self.labels[row] for row in rows] if self.labels else []
        self.records = [self.records[row] for row in rows] if self.records else []

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
        from distill.data.images import decode

        content = self.content(row)
        try:
            return decode(content, mode, upright)
        except ValueError as error:
            raise UserError(f"{self.path / self.names[row]}: {COMPLAINT} ({error})") from error

    def read_captions(self) -> list[tuple[str, ...]]:
        """The captions of each image: a text file of the same name beside it, or its lines of `metadata.jsonl`, which leaves others out.

        Raises UserError where one is missing, or is no text.
        """
        found = next(
            (
                (name, folder)
                for name in (METADATA, METADATA_CSV)
                if (folder := self._folder_of(name)) is not None
            ),
            None,
        )
        if found is None:
            return [(self._caption_beside(name),) for name in self.names]
        captions = self._listed_in_metadata(*found)
        for name in self.names:
            if name not in captions:
                raise UserError(
                    f"{self.path / found[1] / found[0]}: has no caption of {name}; expected one for every image"
                )
        return [tuple(captions[name]) for name in self.names]

    def _caption_beside(self, name: str) -> str:
        beside = next(
            (
                text
                for ending in (".txt", ".TXT")
                if (text := str(PurePosixPath(name).with_suffix(ending))) in self._all
            ),
            None,
        )
        if beside is None:
            expected = (
                f"{PurePosixPath(name).stem}.txt beside it, or {METADATA} or {METADATA_CSV} in {self.path}"
            )
            raise UserError(f"{self.path / name}: has no caption; expected {expected}")
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

    def _is_folder(self) -> bool:
        return isinstance(self._files(), Folder)

    def _folder_of(self, index: str) -> str | None:
        """The folder in which a list of this name lies, among those that all images share, as names begin; None where there is no such list."""
        parts = shared_folder(self.names).split("/")[:-1]
        folders = ("".join(f"{part}/" for part in parts[:count]) for count in range(len(parts) + 1))
        return next((folder for folder in folders if f"{folder}{index}" in self._all), None)

    def _read_labels(self) -> list[int]:
        """The label of every image, or of none."""
        for index, listed in ((INDEX, self._listed_by_sample_py), (EDM_INDEX, self._listed_by_edm)):
            folder = self._folder_of(index)
            if folder is not None:
                return listed(folder)
        classes = {name: str(PurePosixPath(name).with_suffix(".cls")) for name in self.names}
        if any(beside in self._all for beside in classes.values()):
            return [self._read_class(name, beside) for name, beside in classes.items()]
        try:
            found = class_folders(self.names)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from error
        self.classes, self.doubt = found.classes, found.doubt
        return [
            self._label(label, name)
            for name, label in zip(self.names, found.labels, strict=bool(found.labels))
        ]

    def _label(self, label: Any, name: str) -> int:
        """Raises UserError where this is no label."""
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL:
            raise UserError(
                f"{self.path / name}: its label is {label!r}; expected a number from 0 to {MAX_LABEL}"
            )
        return label

    def _read_class(self, name: str, beside: str) -> int:
        if beside not in self._all:
            raise UserError(
                f"{self.path / name}: has no label; expected {Path(beside).name} beside it, as others have one"
            )
        text = self._text(beside).strip()
        try:
            return self._label(int(text), name)
        except ValueError as error:
            raise UserError(
                f"{self.path / beside}: holds {text[:40]!r}; expected the number of a class"
            ) from error

    def _listed_by_sample_py(self, folder: str) -> list[int]:
        """The labels of `sample.py`, whose index leaves its grid out."""
        place = self.path / folder / INDEX
        try:
            records = json.loads(self._text(f"{folder}{INDEX}"))["images"]
            labels = {f"{folder}{record['file']}": record["label"] for record in records}
            if not all(_fits(record, "seed", int) and _fits(record, "prompt", str) for record in records):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{place}: is not what sample.py writes; expected 'images' of 'file', 'label', 'seed' and 'prompt'"
            ) from error
        if not labels:
            raise UserError(f"{place}: lists no images")
        if len(labels) < len(records):
            twice, _ = Counter(record["file"] for record in records).most_common(1)[0]
            raise UserError(f"{place}: lists {twice} more than once; expected each image once")
        for name in labels.keys() - self._all.keys():
            raise UserError(f"{self.path}: holds no {name}, which its {INDEX} lists")
        self.names, self.records = list(labels), records
        known = all(isinstance(label, int) and label >= 0 for label in labels.values())
        return list(labels.values()) if known else []

    def _listed_by_edm(self, folder: str) -> list[int]:
        place = self.path / folder / EDM_INDEX
        labels: dict[str, Any] = {}
        try:
            for name, label in json.loads(self._text(f"{folder}{EDM_INDEX}"))["labels"] or ():
                if labels.setdefault(f"{folder}{plain_name(name)}", label) != label:
                    raise UserError(
                        f"{place}: lists {name} with the labels {labels[f'{folder}{plain_name(name)}']} and {label}; expected one"
                    )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{place}: is not EDM's; expected 'labels' of pairs of a file and a number"
            ) from error
        if not labels:
            return []
        for name in self.names:
            if name not in labels:
                raise UserError(f"{place}: lists no label for {name}; expected one for every image")
        for name in labels.keys() - set(self.names):
            raise UserError(f"{place}: lists {name}, which is not there")
        return [self._label(labels[name], name) for name in self.names]

    def _listed_in_metadata(self, index: str, folder: str) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {}
        place, text = f"{self.path / folder / index}", self._text(f"{folder}{index}")
        kind, read = ("row", csv_lines) if index == METADATA_CSV else ("JSON object", json_lines)
        expected = f"expected a {kind} with 'file_name' and 'text'"
        for line, entry in read(text, place, expected):
            if not isinstance(entry.get("file_name"), str) or "text" not in entry:
                raise UserError(f"{line}: {expected}")
            name = f"{folder}{plain_name(entry['file_name'])}"
            if name not in self._all:
                raise UserError(f"{line}: {self.path / name} is not there")
            captions.setdefault(name, []).extend(captions_of(entry["text"], f"{line}: 'text'"))
        return captions


def _fits(record: dict[str, Any], name: str, kind: type) -> bool:
    """Whether an entry of a list is of this type, or not known."""
    value = record.get(name)
    return value is None or (
        isinstance(value, kind)
        and not isinstance(value, bool)
        and (value == "" or kind is not str or is_text(value))
    )


def captions_of(value: Any, place: str) -> tuple[str, ...]:
    """The captions of one image: a text, or a list of some. Raises UserError, which begins with `place`, for anything else."""
    captions = value if isinstance(value, (list, tuple)) and value else (value,)
    for caption in captions:
        if not is_text(caption):
            raise UserError(f"{place} is {caption!r}; expected a caption")
    return tuple(captions)


def _is_image(name: str) -> bool:
    return _has_ending(name, ENDINGS)


def _has_ending(name: str, endings: Set[str]) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in endings and not any(
        part.startswith(".") and part != ".." for part in path.parts
    )
