"""Features of a stream of images: the one way from images to what metrics read, in memory or on disk."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import ProgressBar
from distill.eval.features import AT_ONCE, Extractor, features_of
from distill.eval.frechet import Statistics
from distill.eval.images.resize import resize
from distill.eval.images.streams import ImageStream
from distill.eval.metrics.precision_recall import Manifold
from distill.eval.protocols import Protocol

Block = dict[str, Tensor]
"""Tensors of some images by name: `rows`, `images` (a hash of each), `shapes`, `features`, maybe `logits`."""
Observer = Callable[[UInt8[Tensor, "c h w"]], None]
"""A function that is shown every image, in order."""
Read = Callable[[Sequence[int]], Iterable[Tensor | UserError]]
"""A function that gives the images of these rows, in order, as `ImageStream.read` does."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Features (n, d) of n images, logits (n, k) and labels (n,) if there are any, and the images' hash.

    `notes` are warnings about the images. The statistics and the manifold are computed when they are first
    asked for.
    """

    features: Float[Tensor, "n _"]
    logits: Float[Tensor, "n _"] | None
    labels: Int64[Tensor, " n"] | None
    images_sha256: str
    notes: list[str]

    def __len__(self) -> int:
        return len(self.features)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance of the features."""
        return Statistics.of(self.features)

    @functools.cached_property
    def manifold(self) -> Manifold:
        """Balls around the features, for precision and recall."""
        return Manifold.of(self.features)


def compute_features(
    stream: ImageStream,
    protocol: Protocol,
    extractor: Extractor,
    observe: Observer | None = None,
    progress: bool = False,
) -> Features:
    """Compute the features of all images of a stream, in memory. `observe` is shown each image."""
    rows = range(len(stream))
    return assemble([compute_rows(stream, rows, protocol, extractor, observe, progress)], stream, protocol)


def compute_rows(
    stream: ImageStream,
    rows: Sequence[int],
    protocol: Protocol,
    extractor: Extractor,
    observe: Observer | None = None,
    progress: bool = False,
) -> Block:
    """Compute the features of some images of a stream, all of which must be usable."""
    failures: list[str] = []
    parts: list[Block] = []
    title = f"features of {stream.origin}"
    with ProgressBar(title, len(rows), "images", hidden=not progress) as bar:
        for part in compute_blocks(stream, rows, protocol, extractor, failures, observe):
            parts.append(part)
            bar.update(len(part["rows"]))
    if failures:
        raise UserError(describe_failures(failures, len(stream)))
    return join(parts)


def join(parts: Sequence[Block]) -> Block:
    """Join blocks row by row."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def compute_blocks(
    stream: ImageStream,
    rows: Sequence[int],
    protocol: Protocol,
    extractor: Extractor,
    failures: list[str],
    observe: Observer | None = None,
    read: Read | None = None,
) -> Iterator[Block]:
    """Yield the features of a few images after another.

    Images that cannot be used are left out, and the reasons go to `failures`. `read` replaces the stream's
    own.
    """
    waiting: list[tuple[int, Tensor, Tensor]] = []
    shape: tuple[int, ...] | None = None
    for row, image in zip(rows, (read or stream.read)(rows), strict=True):
        if isinstance(image, UserError):
            failures.append(str(image))
            continue
        if observe is not None:
            observe(image)
        shape = shape or tuple(image.shape)
        if not protocol.mixed and tuple(image.shape) != shape:
            place = f"{name_of(stream, row)} is of {tuple(image.shape)}; expected {shape} as before"
            failures.append(f"{place}, {protocol.name} takes one size")
            continue
        try:
            prepared = prepare(image, protocol)
        except UserError as error:
            failures.append(f"{name_of(stream, row)} {error}")
            continue
        waiting.append((row, image, prepared))
        if len(waiting) == AT_ONCE:
            yield _block(waiting, extractor)
            waiting = []
    if waiting:
        yield _block(waiting, extractor)


def prepare(image: UInt8[Tensor, "_ _ _"], protocol: Protocol) -> Float[Tensor, "_ _ _"]:
    """Resize an image (c, h, w) as the protocol says; an image that is resized gets three channels."""
    resized = resize(protocol.resize, image, protocol.size)
    return resized.expand(3, -1, -1) if protocol.resize else resized


def assemble(parts: Sequence[Block], stream: ImageStream, protocol: Protocol) -> Features:
    """Put blocks, in the order of their rows from 0 on, together as the features of those images."""
    joined = join(parts)
    images_sha256 = hashlib.sha256(joined["images"].numpy().tobytes()).hexdigest()
    rows = range(len(joined["rows"]))
    labels = torch.tensor([stream.label(row) for row in rows]) if stream.label_count else None
    notes = _check_shapes(joined["shapes"], stream, protocol)
    return Features(joined["features"], joined.get("logits"), labels, images_sha256, notes)


def describe_failures(failures: Sequence[str], total: int) -> str:
    """Say how many of all images cannot be used, and why the first cannot."""
    return f"{len(failures)} of {total} images cannot be used: {failures[0]}"


def name_of(stream: ImageStream, row: int) -> str:
    """Name an image for a message."""
    return f"{stream.origin}: {stream.name(row)}"


def digest(content: bytes) -> UInt8[Tensor, " 32"]:
    """Hash bytes with SHA-256."""
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)


def _block(waiting: Sequence[tuple[int, Tensor, Tensor]], extractor: Extractor) -> Block:
    rows, images, prepared = zip(*waiting, strict=True)
    digests = [digest(f"{tuple(image.shape)}".encode() + _bytes(image)) for image in images]
    return {
        "rows": torch.tensor(rows),
        "images": torch.stack(digests),
        "shapes": torch.tensor([tuple(image.shape) for image in images]),
        **features_of(extractor, torch.stack(prepared)),
    }


def _bytes(image: UInt8[Tensor, "c h w"]) -> bytes:
    return image.contiguous().numpy().tobytes()


def _check_shapes(shapes: Int64[Tensor, "n 3"], stream: ImageStream, protocol: Protocol) -> list[str]:
    """Return notes on images of several sizes and on grey images among colour, unless they are refused."""
    other = (shapes != shapes[0]).any(1).nonzero().flatten().tolist()
    if not other:
        return []
    if not protocol.mixed:
        row = other[0]
        found, expected = (tuple(shapes[place].tolist()) for place in (row, 0))
        place = f"{name_of(stream, row)} is of {found}; expected {expected} as the first"
        raise UserError(f"{place}, {protocol.name} takes one size")
    notes = []
    grey = (shapes[:, 0] == 1).nonzero().flatten().tolist()
    if 0 < len(grey) < len(shapes):
        share = f"{len(grey)} of {len(shapes)} images are grey and were read as colour"
        notes.append(f"{stream.origin}: {share}, first {stream.name(grey[0])}")
    sizes = len(shapes[:, 1:].unique(dim=0))
    if sizes > 1:
        notes.append(f"{stream.origin}: images of {sizes} sizes")
    return notes
