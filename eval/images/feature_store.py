"""Features of a stream of images, extracted once and kept: what every statistic reads.

A folder holds `features.json`, which says of what and how, and shards of safetensors, each whole or absent and sealed with its hash, so that an
interrupted extraction continues where it was, a file that was mended costs one image, and a damaged shard is extracted anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from distill.config.errors import UserError
from distill.storage.files import new_file, write_json
from distill.storage.tensors import load_sealed_tensors, load_tensors, save_tensors
from eval.features import AT_ONCE, Extractor, features_of
from eval.images.processes import Processes
from eval.images.resize import resize
from eval.images.streams import ImageStream
from eval.protocols import Protocol

FORMAT, INDEX = "distill-features/2", "features.json"
SHARD = 2 * AT_ONCE
"""Images in a file: what a killed process loses at most, and the least that processes share their work by."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Features (n, d) and, if there are any, logits (n, k) and labels (n,) of n images; the hash of these; what they were made of and how."""

    features: Float[Tensor, "n _"]
    logits: Float[Tensor, "n _"] | None
    labels: Int64[Tensor, " n"] | None
    images_sha256: str
    description: dict[str, Any]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.features)


def extract(
    stream: ImageStream,
    protocol: Protocol,
    extractor: Extractor,
    root: Path,
    processes: Processes | None = None,
    progress: bool = False,
) -> Features:
    """The features of all images of a stream, from the store under `root` where they are there. Every process takes its share of the shards.

    Raises UserError, naming the first, where images cannot be used; the features of the others are kept.
    """
    processes = processes or Processes.single()
    description = describe(stream, protocol, extractor)
    folder = root / hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    try:
        if processes.is_main:
            write_json(folder / INDEX, description)
        processes.wait()
        shards = [range(start, min(start + SHARD, len(stream))) for start in range(0, len(stream), SHARD)]
        with tqdm(
            total=len(stream),
            desc=f"features of {stream.origin}",
            unit="image",
            disable=not progress or not processes.is_main,
        ) as bar:
            failures: list[str] = []
            damaged: list[str] = []
            for rows in processes.share(shards):
                failures += _fill_shard(folder, rows, stream, protocol, extractor, damaged)
                bar.update(len(rows) * processes.count)
    except OSError as error:
        raise UserError(f"--features {root}: cannot be written ({error.strerror})") from error
    failures = processes.gather(failures)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(stream)} images cannot be used: {failures[0]}; the features of the others are kept"
        )
    damaged = processes.gather(damaged)
    made = _load(folder, shards, stream, protocol, description)
    if damaged:
        made.notes.append(
            f"{stream.origin}: {len(damaged)} damaged shards of features were extracted anew, first {damaged[0]}"
        )
    return made


def describe(stream: ImageStream, protocol: Protocol, extractor: Extractor) -> dict[str, Any]:
    """What features depend on besides each image."""
    return {
        "format": FORMAT,
        "features": protocol.features,
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "images": stream.describe(),
    }


def _fill_shard(
    folder: Path,
    rows: range,
    stream: ImageStream,
    protocol: Protocol,
    extractor: Extractor,
    damaged: list[str],
) -> list[str]:
    """Extract what a shard does not hold, and write it; one that is damaged goes to `damaged`. Returns why images could not be used."""
    path = _shard(folder, rows)
    stamps = torch.stack([_digest(os.fsencode(stream.stamp(row))) for row in rows])
    kept = _kept(path, rows, stamps, damaged)
    held = set(kept["rows"].tolist()) if kept else set()
    absent = [row for row in rows if row not in held]
    if not absent:
        return []
    failures: list[str] = []
    made = list(_extracted(stream, absent, protocol, extractor, failures))
    parts = [kept] * bool(kept) + made
    if made:
        tensors = {name: torch.cat([part[name] for part in parts]) for name in made[0]}
        order = tensors["rows"].argsort()
        tensors = {name: value[order] for name, value in tensors.items()}
        with new_file(path) as partial:
            save_tensors(partial, {**tensors, "stamps": stamps[tensors["rows"] - rows.start]}, sealed=True)
    return failures


def _kept(path: Path, rows: range, stamps: UInt8[Tensor, "n 32"], damaged: list[str]) -> dict[str, Tensor]:
    """What a shard holds of images that are still the same; nothing where it is damaged."""
    if not path.is_file():
        return {}
    try:
        stored = load_sealed_tensors(path)
    except UserError:
        damaged.append(path.name)
        return {}
    place = stored["rows"] - rows.start
    inside = place < len(rows)
    same = inside & (stored.pop("stamps") == stamps[place.clamp(max=len(rows) - 1)]).all(1)
    return {name: value[same] for name, value in stored.items()} if same.any() else {}


def _extracted(
    stream: ImageStream, rows: list[int], protocol: Protocol, extractor: Extractor, failures: list[str]
) -> Iterator[dict[str, Tensor]]:
    """Features of a few images after another, without those that go to `failures`."""
    waiting: list[tuple[int, Tensor, Tensor]] = []
    shape = None
    for row, image in zip(rows, stream.read(rows), strict=True):
        if isinstance(image, UserError):
            failures.append(str(image))
            continue
        shape = shape or tuple(image.shape)
        if not protocol.mixed and tuple(image.shape) != shape:
            failures.append(
                f"{_name(stream, row)} is of {tuple(image.shape)}; expected {shape} as before, {protocol.name} takes one size"
            )
            continue
        waiting.append((row, image, prepare(image, protocol)))
        if len(waiting) == AT_ONCE:
            yield _of_waiting(waiting, extractor)
            waiting = []
    if waiting:
        yield _of_waiting(waiting, extractor)


def prepare(image: UInt8[Tensor, "_ _ _"], protocol: Protocol) -> Float[Tensor, "_ _ _"]:
    """An image (c, h, w) as the protocol's feature network takes it: resized, and of three channels where the protocol resizes."""
    resized = resize(protocol.resize, image, protocol.size)
    return resized.expand(3, -1, -1) if protocol.resize else resized


def _of_waiting(waiting: list[tuple[int, Tensor, Tensor]], extractor: Extractor) -> dict[str, Tensor]:
    rows, images, prepared = zip(*waiting, strict=True)
    return {
        "rows": torch.tensor(rows),
        "images": torch.stack(
            [
                _digest(f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes())
                for image in images
            ]
        ),
        "shapes": torch.tensor([tuple(image.shape) for image in images]),
        **features_of(extractor, torch.stack(prepared)),
    }


def _load(
    folder: Path, shards: list[range], stream: ImageStream, protocol: Protocol, description: dict[str, Any]
) -> Features:
    loaded = []
    for rows in shards:
        shard = load_tensors(_shard(folder, rows))
        loaded.append({name: value[shard["rows"] < rows.stop] for name, value in shard.items()})
    stored = {name: torch.cat([shard[name] for shard in loaded]) for name in loaded[0]}
    images = hashlib.sha256(stored["images"].numpy().tobytes()).hexdigest()
    labels = torch.tensor([stream.label(row) for row in range(len(stream))]) if stream.label_count else None
    notes = _check_shapes(stored["shapes"], stream, protocol)
    return Features(stored["features"], stored.get("logits"), labels, images, description, notes)


def _check_shapes(shapes: Int64[Tensor, "n 3"], stream: ImageStream, protocol: Protocol) -> list[str]:
    """Notes on images of several sizes, and on grey ones among colour. Raises UserError where the protocol takes none."""
    other = (shapes != shapes[0]).any(1).nonzero().flatten().tolist()
    if not other:
        return []
    if not protocol.mixed:
        row = other[0]
        found, expected = (tuple(shapes[place].tolist()) for place in (row, 0))
        raise UserError(
            f"{_name(stream, row)} is of {found}; expected {expected} as the first, {protocol.name} takes one size"
        )
    notes = []
    grey = (shapes[:, 0] == 1).nonzero().flatten().tolist()
    if 0 < len(grey) < len(shapes):
        notes.append(
            f"{stream.origin}: {len(grey)} of {len(shapes)} images are grey and were read as colour, first {stream.name(grey[0])}"
        )
    if len(shapes[:, 1:].unique(dim=0)) > 1:
        notes.append(f"{stream.origin}: images of {len(shapes[:, 1:].unique(dim=0))} sizes")
    return notes


def _name(stream: ImageStream, row: int) -> str:
    return f"{stream.origin}: {stream.name(row)}"


def _shard(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:08d}.safetensors"


def _digest(content: bytes) -> UInt8[Tensor, " 32"]:
    return torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)
