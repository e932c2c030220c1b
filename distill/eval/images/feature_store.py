"""The store of features on disk: extracted once and kept under the hash of all that they depend on.

A folder holds `features.json`, which says what the features are of and how they were made, and shards of
safetensors, each whole or absent and sealed with its hash. So an interrupted extraction continues where it
was, a file that was mended costs one image, and a damaged shard is extracted anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError, writing_to
from distill.config.progress import ProgressBar
from distill.eval.features import AT_ONCE, Extractor
from distill.eval.images.extraction import (
    Block,
    Features,
    assemble,
    compute_blocks,
    describe_failures,
    digest,
)
from distill.eval.images.processes import Processes
from distill.eval.images.streams import ImageStream
from distill.eval.protocols import Protocol
from distill.storage.files import new_file, write_json
from distill.storage.tensors import load_sealed_tensors, load_tensors, save_tensors

FORMAT, INDEX = "distill-features/2", "features.json"
SHARD = 2 * AT_ONCE
"""Images in a file: a killed process loses at most so many, and processes share their work by so many."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Images whose features are wanted, with their protocol and its feature network."""

    stream: ImageStream
    protocol: Protocol
    extractor: Extractor


def extract(
    stream: ImageStream,
    protocol: Protocol,
    extractor: Extractor,
    root: Path,
    processes: Processes | None = None,
    progress: bool = False,
) -> Features:
    """Return the features of all images of a stream, from the store under `root` if they are there.

    Every process extracts its share of the missing shards. If images cannot be used, the features of the
    others are kept.
    """
    return extract_together([Request(stream, protocol, extractor)], root, processes, progress)[0]


def extract_together(
    requests: Sequence[Request], root: Path, processes: Processes | None = None, progress: bool = False
) -> list[Features]:
    """Return the features of each request, as `extract` does, and make or read every image only once.

    A network's images of the same seeds are the same images, however many of them a request has.
    """
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(_images_key(request.stream), []).append(place)
    found: dict[int, Features] = {}
    for places in groups.values():
        group = [requests[place] for place in places]
        features = _extract_group(group, root, processes or Processes.single(), progress)
        found.update(zip(places, features, strict=True))
    return [found[place] for place in range(len(requests))]


def _images_key(stream: ImageStream) -> str:
    """Identify the images of a stream by their rows; the rows of files depend on how many are kept."""
    count = len(stream) if stream.first_seed is None else None
    return json.dumps([stream.describe(), count], sort_keys=True)


def _extract_group(
    requests: Sequence[Request], root: Path, processes: Processes, progress: bool
) -> list[Features]:
    """Extract the features of requests of the same images, of which some may have fewer than others."""
    folders = [_folder(root, request) for request in requests]
    longest = max((request.stream for request in requests), key=len)
    failures: list[list[str]] = [[] for _ in requests]
    damaged: list[list[str]] = [[] for _ in requests]
    with writing_to(f"--features {root}:"):
        if processes.is_main:
            for request, folder in zip(requests, folders, strict=True):
                write_json(folder / INDEX, describe(request.stream, request.protocol, request.extractor))
        processes.wait()
        hidden = not progress or not processes.is_main
        title = f"features of {longest.origin}"
        with ProgressBar(title, len(longest), "images", hidden=hidden, leave=True) as bar:
            for rows in processes.share(_shards(len(longest))):
                images = _HeldImages(longest, rows)
                for place, request in enumerate(requests):
                    failures[place] += _fill_shard(folders[place], images, request, damaged[place])
                bar.update(len(rows) * processes.count)
    all_failures = [processes.gather(found) for found in failures]
    all_damaged = [processes.gather(found) for found in damaged]
    for request, found in zip(requests, all_failures, strict=True):
        if found:
            reason = describe_failures(found, len(request.stream))
            raise UserError(f"{reason}; the features of the others are kept")
    return [_load(*parts) for parts in zip(requests, folders, all_damaged, strict=True)]


def _load(request: Request, folder: Path, damaged: Sequence[str]) -> Features:
    """Read all features of a request, with a note on shards that were damaged."""
    stream = request.stream
    parts = [_load_shard(folder, rows) for rows in _shards(len(stream))]
    features = assemble(parts, stream, request.protocol)
    if damaged:
        again = f"{len(damaged)} damaged shards of features were extracted anew, first {damaged[0]}"
        features.notes.append(f"{stream.origin}: {again}")
    return features


def _folder(root: Path, request: Request) -> Path:
    description = describe(request.stream, request.protocol, request.extractor)
    return root / hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def _shards(count: int) -> list[range]:
    return [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]


def describe(stream: ImageStream, protocol: Protocol, extractor: Extractor) -> dict[str, Any]:
    """Describe all that features depend on apart from the content of each image."""
    return {
        "format": FORMAT,
        "features": protocol.features,
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "images": stream.describe(),
    }


class _HeldImages:
    """The images of a shard, each of which is read once and held for further feature networks."""

    def __init__(self, stream: ImageStream, rows: range) -> None:
        self.stream = stream
        self.rows = rows
        self._held: dict[int, Tensor | UserError] = {}

    @functools.cached_property
    def stamps(self) -> UInt8[Tensor, "n 32"]:
        """Hash of what each image depends on."""
        return torch.stack([digest(os.fsencode(self.stream.stamp(row))) for row in self.rows])

    def read(self, rows: Sequence[int]) -> Iterator[Tensor | UserError]:
        absent = [row for row in rows if row not in self._held]
        self._held.update(zip(absent, self.stream.read(absent), strict=True))
        return (self._held[row] for row in rows)


def _fill_shard(folder: Path, images: _HeldImages, request: Request, damaged: list[str]) -> list[str]:
    """Extract what a shard does not hold, write it, and return why images could not be used.

    The name of a damaged shard goes to `damaged`. A request of fewer images fills a part of the shard.
    """
    rows = images.rows[: max(0, len(request.stream) - images.rows.start)]
    if not rows:
        return []
    path = _shard(folder, rows)
    stamps = images.stamps[: len(rows)]
    kept = _kept(path, rows, stamps, damaged)
    held = set(kept["rows"].tolist()) if kept else set()
    absent = [row for row in rows if row not in held]
    if not absent:
        return []
    failures: list[str] = []
    protocol, extractor = request.protocol, request.extractor
    blocks = compute_blocks(images.stream, absent, protocol, extractor, failures, read=images.read)
    made = list(blocks)
    parts = [kept, *made] if kept else made
    if made:
        tensors = {name: torch.cat([part[name] for part in parts]) for name in made[0]}
        order = tensors["rows"].argsort()
        tensors = {name: value[order] for name, value in tensors.items()}
        with new_file(path) as partial:
            save_tensors(partial, {**tensors, "stamps": stamps[tensors["rows"] - rows.start]}, sealed=True)
    return failures


def _kept(path: Path, rows: range, stamps: UInt8[Tensor, "n 32"], damaged: list[str]) -> Block:
    """Return what a shard holds of images that have not changed; nothing if it is damaged."""
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


def _load_shard(folder: Path, rows: range) -> Block:
    """Read a shard, which may hold more images than are asked for."""
    stored = load_tensors(_shard(folder, rows))
    return {name: value[stored["rows"] < rows.stop] for name, value in stored.items()}


def _shard(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:08d}.safetensors"
