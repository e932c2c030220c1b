"""Images for a page: small copies in sight, larger ones to open, and both within a limit of bytes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import track
from distill.data.image_files import ImageFiles
from distill.data.images import to_pil
from distill.eval.composition.layouts import GRIDS, quarter_of
from distill.eval.page.models import Model
from distill.eval.preference.images import image_name
from distill.eval.preference.kept import images_sha256, pixels_sha256
from distill.publishing.report.charts import data_uri

SIDES = (256, 160, 96)
"""Maximum sides of small copies in pixels; the first that keeps the page within its limit is taken."""
LOSSLESS_UP_TO = 128
"""Longer side in pixels up to which an image is shown as it is, enlarged without smoothing."""
SHOWN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats of files that browsers show."""
LARGE_SIDE = 1024
"""Maximum side in pixels of a larger copy, where files as they are would exceed the limit."""


@dataclasses.dataclass
class Picture:
    """An image as URIs: the small copy and the larger one, None where there is none; its size in pixels.

    An image that is shown as it is needs no larger copy.
    """

    width: int
    height: int
    small: str | None = None
    large: str | None = None

    @property
    def is_whole(self) -> bool:
        """True if the small copy is the image itself."""
        return max(self.width, self.height) <= LOSSLESS_UP_TO


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The pictures of each model by row, None where there are none, and notes on what is left out."""

    pictures: list[list[Picture | None]]
    notes: list[str]

    @property
    def bytes(self) -> int:
        """Size of all copies on the page."""
        known = [picture for column in self.pictures for picture in column if picture is not None]
        return sum(len(picture.small or "") + len(picture.large or "") for picture in known)


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """The images of a model, by row."""

    model: Model
    files: ImageFiles
    places: Sequence[int]

    @property
    def are_quarters(self) -> bool:
        """True if each file is a grid of four images."""
        return self.model.results["subject"].get("layout") == GRIDS

    def content(self, row: int) -> bytes:
        """Return the file of an image, or an image without loss if it is a part of its file."""
        if not self.are_quarters:
            return self.files.content(self.places[row])
        buffer = io.BytesIO()
        to_pil(self.pixels(row)).save(buffer, "png")
        return buffer.getvalue()

    def pixels(self, row: int) -> Tensor:
        """Read an image as it was scored: images of labels keep their channels, others become RGB."""
        are_labels = str(self.model.results["prompts"].get("of", "")).startswith("labels:")
        pixels = self.files.pixels(self.places[row], None if are_labels else "RGB")
        if not self.are_quarters:
            return pixels
        place = self.places[row]
        number = row // len(self.model.results["prompts"]["texts"])
        return quarter_of(pixels, number, self.files.path / self.files.names[place])


def gather_pictures(models: Sequence[Model], limit: int) -> Gallery:
    """Read the images of all models and encode them, within `limit` bytes of the page.

    A model whose images are not where its results say, or are others by now, is named in a note.
    """
    notes: list[str] = []
    stored: list[StoredImages | None] = []
    for model in models:
        try:
            stored.append(open_images(model))
        except UserError as error:
            stored.append(None)
            notes.append(f"{model.name} is shown without images: {error}")
    rows = len(models[0].results["seeds"])
    gallery = Gallery([[None] * rows for _ in models], notes)
    side = _add_small(gallery, stored, limit)
    if side is not None:
        _add_large(gallery, stored, limit - gallery.bytes, side)
    return gallery


def open_images(model: Model) -> StoredImages:
    """Open the files of a model's images, in the store or folder that its results name."""
    subject = model.results["subject"]
    folder = Path(str(subject.get("folder", "")))
    if "folder" not in subject or not folder.exists():
        raise UserError(
            f"{model.file} names {folder}, which is not there; expected its --store or its images"
        )
    names = subject.get("files") or _names_in_store(model)
    files = ImageFiles(folder)
    places = {name: place for place, name in enumerate(files.names)}
    for name in names:
        if name not in places:
            raise UserError(f"{folder} holds no {name} any more")
    return StoredImages(model, files, [places[name] for name in names])


def _names_in_store(model: Model) -> list[str]:
    """Return the names of images that an earlier version made: prompt and seed decide them."""
    results = model.results
    if results["subject"].get("paired_by") != "seed":
        raise UserError(
            f"{model.file} does not name its images, an earlier version wrote it; measure it again"
        )
    texts = results["prompts"]["texts"]
    seeds = [-1 if seed is None else seed for seed in results["seeds"]]
    return [image_name(texts[row % len(texts)], seed) for row, seed in enumerate(seeds)]


def _add_small(gallery: Gallery, stored: Sequence[StoredImages | None], limit: int) -> int | None:
    """Add small copies, of the largest side that fits, and return it.

    If even the smallest do not fit, the first rows have some, and None is returned.
    """
    for side in SIDES:
        if _encode_rows(gallery, stored, limit, side):
            return side
    rows = len(gallery.pictures[0])
    shown = sum(any(column[row] for column in gallery.pictures) for row in range(rows))
    gallery.notes.append(
        f"The images of the first {shown} of {rows} rows are shown: those of all would exceed the limit of "
        f"{limit // 10**6} MB (--max-mb)."
    )
    return None


def _encode_rows(gallery: Gallery, stored: Sequence[StoredImages | None], limit: int, side: int) -> bool:
    """Set small copies of at most `side` pixels, row by row; return False if the limit ended it."""
    used = 0
    hashes: list[list[str]] = [[] for _ in stored]
    for column in gallery.pictures:
        column[:] = [None] * len(column)
    for row in track(range(len(gallery.pictures[0])), "images of the page", "rows"):
        pictures: list[Picture | None] = []
        for images, pixels_hashes in zip(stored, hashes, strict=True):
            if images is None:
                pictures.append(None)
                continue
            pixels = images.pixels(row)
            pixels_hashes.append(pixels_sha256(pixels))
            image = to_pil(pixels)
            pictures.append(Picture(image.width, image.height, small_copy(image, side)))
        used += sum(len(picture.small or "") for picture in pictures if picture is not None)
        if used > limit:
            return False
        for column, picture in zip(gallery.pictures, pictures, strict=True):
            column[row] = picture
    for images, pixels_hashes in zip(stored, hashes, strict=True):
        if images and images_sha256(pixels_hashes) != images.model.results["subject"]["images_sha256"]:
            gallery.notes.append(f"The images of {images.model.name} are others than those that were scored.")
    return True


def small_copy(image: Image.Image, side: int) -> str:
    """Encode an image of at most `side` pixels each way; a tiny one is kept as it is, without loss."""
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_UP_TO:
        image.save(buffer, "png", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")
    smaller = image.convert("RGB")
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    smaller.save(buffer, "webp", quality=82)
    return data_uri(buffer.getvalue(), "image/webp")


def _add_large(gallery: Gallery, stored: Sequence[StoredImages | None], limit: int, side: int) -> None:
    """Add the files as they are; if they do not fit, copies with loss; if these do not either, nothing."""
    wanted = [
        (images, row, picture)
        for images, column in zip(stored, gallery.pictures, strict=True)
        for row, picture in enumerate(column)
        if images is not None and picture is not None and not picture.is_whole
    ]
    if not wanted:
        return
    for encode in (_as_it_is, _large_copy):
        uris = list(_within(limit, (encode(images, row) for images, row, _ in wanted)))
        if len(uris) == len(wanted):
            for (_, _, picture), uri in zip(wanted, uris, strict=True):
                picture.large = uri
            if encode is _large_copy:
                gallery.notes.append(
                    f"Larger images are compressed with loss, to at most {LARGE_SIDE} pixels: "
                    "as they are they would exceed the limit (--max-mb)."
                )
            return
    gallery.notes.append(
        f"Only copies of at most {side} pixels are shown: larger ones would exceed the limit (--max-mb)."
    )


def _within(limit: int, uris: Iterator[str]) -> Iterator[str]:
    """Yield texts until they exceed so many bytes together."""
    used = 0
    for uri in uris:
        used += len(uri)
        if used > limit:
            return
        yield uri


def _as_it_is(images: StoredImages, row: int) -> str:
    """Encode an image's file as it is, or without loss if browsers do not show its format."""
    content = images.content(row)
    with Image.open(io.BytesIO(content)) as opened:
        mime = SHOWN.get(opened.format or "")
    if mime is not None:
        return data_uri(content, mime)
    buffer = io.BytesIO()
    to_pil(images.pixels(row)).save(buffer, "png")
    return data_uri(buffer.getvalue(), "image/png")


def _large_copy(images: StoredImages, row: int) -> str:
    buffer = io.BytesIO()
    image = to_pil(images.pixels(row)).convert("RGB")
    image.thumbnail((LARGE_SIDE, LARGE_SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "webp", quality=88)
    return data_uri(buffer.getvalue(), "image/webp")
