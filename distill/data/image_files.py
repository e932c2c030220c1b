"""Read the images in a folder or an archive by name, with their labels and captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from distill.config.errors import UserError
from distill.data.archives import Folder, NamedFiles
from distill.data.image_captions import read_image_captions
from distill.data.image_labels import read_image_labels

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif"),
}
"""Endings of the images that are read. Only the first frame of an animation is."""
UNREADABLE_ENDINGS = {
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".ico", ".icns", ".svg", ".eps", ".psd", ".xcf", ".exr"),
    *(".hdr", ".dds", ".pcx", ".sgi", ".fits"),
    *(".raw", ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef"),
}
"""Endings of images that cannot be read. A folder with one is refused, so that none is left out silently."""
COMPLAINT = "cannot be read as an image"


class ImageFiles:
    """The images in a folder, a `.zip`, a `.tar` or a folder of `.tar` files, sorted by name.

    `labels` holds the label of each image, or nothing; `classes`, `doubt` and `records` are those of
    `ImageLabels`. Files and folders whose names begin with a dot, such as macOS and Jupyter write, are
    skipped. A path without images, with images that cannot be read, or with images beside archives is
    refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = NamedFiles(path)
        self._check_endings()
        names = sorted(name for name in self._files.names if _is_image(name))
        if not names:
            raise UserError(f"{path}: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}")
        found = read_image_labels(self._files, names)
        self.names = found.names
        self.labels = found.labels
        self.classes = found.classes
        self.doubt = found.doubt
        self.records = found.records
        self.label_count = max(self.labels, default=-1) + 1

    def __len__(self) -> int:
        return len(self.names)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the images at these positions."""
        self.names = [self.names[row] for row in rows]
        self.labels = [self.labels[row] for row in rows] if self.labels else []
        self.records = [self.records[row] for row in rows] if self.records else []

    def stamp(self, row: int) -> str:
        """Return an image's name and the hash of its file, or its name and that it cannot be read."""
        try:
            return f"{self.names[row]} {hashlib.sha256(self.content(row)).hexdigest()}"
        except UserError:
            return f"{self.names[row]} cannot be read"

    def content(self, row: int) -> bytes:
        """Return the content of an image's file."""
        return self._files.read(self.names[row], COMPLAINT)

    def pixels(self, row: int, mode: str | None = None, upright: bool = True) -> Tensor:
        """Decode an image to uint8 (c, h, w) in Pillow's `mode`; by default `L` if it is grey, else `RGB`.

        The image is turned by its EXIF orientation unless `upright` is false.
        """
        from distill.data.images import decode

        content = self.content(row)
        try:
            return decode(content, mode, upright)
        except ValueError as error:
            raise UserError(f"{self.path / self.names[row]}: {COMPLAINT} ({error})") from error

    def read_captions(self, key: str | None = None) -> list[tuple[str, ...]]:
        """Read one or more captions of each image; those of JSON files beside them are under `key`."""
        return read_image_captions(self._files, self.names, key)

    def _check_endings(self) -> None:
        """Refuse images that would be left out: those of unreadable kinds, and those beside archives."""
        unreadable = [name for name in self._files.names if _has_ending(name, UNREADABLE_ENDINGS)]
        if unreadable:
            place = self.path / min(unreadable)
            raise UserError(f"{place}: is of a kind that cannot be read; expected it as PNG, or elsewhere")
        if not self.path.is_dir() or not list(self.path.glob("*.tar")):
            return
        beside = [name for name in Folder(self.path).stamps() if _is_image(name)]
        if beside:
            place = self.path / min(beside)
            raise UserError(
                f"{place}: lies beside .tar files; expected images in archives or beside them, not both"
            )


def _is_image(name: str) -> bool:
    return _has_ending(name, ENDINGS)


def _has_ending(name: str, endings: Set[str]) -> bool:
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return path.suffix.lower() in endings and not is_hidden
