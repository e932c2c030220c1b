"""The store of features on disk: extracted once and kept under the hash of all that they depend on.

A folder holds `features.json`, which says what the features are of and how they were made, and shards of
safetensors, each whole or absent and sealed with its hash. So an interrupted extraction continues where it
was, a file that was mended costs one image, and a damaged shard is extracted anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
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
    processes = processes or Processes.single()
    description = describe(stream, protocol, extractor)
    folder = root / hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    shards = [range(start, min(start + SHARD, len(stream))) for start in range(0, len(stream), SHARD)]
    failures: list[str] = []
    damaged: list[str] = []
    try:
        if processes.is_main:
            write_json(folder / INDEX, description)
        processes.wait()
        hidden = not progress or not processes.is_main
        title = f"features of {stream.origin}"
        with ProgressBar(title, len(stream), "images", hidden=hidden, leave=True) as bar:
            for rows in processes.share(shards):
                failures += _fill_shard(folder, rows, stream, protocol, extractor, damaged)
                bar.update(len(rows) * processes.count)
    except OSError as error:
        raise UserError(f"--features {root}: cannot be written ({error.strerror})") from error
    failures = processes.gather(failures)
    if failures:
        raise UserError(f"{describe_failures(failures, stream)}; the features of the others are kept")
    damaged = processes.gather(damaged)
    found = assemble([_load_shard(folder, rows) for rows in shards], stream, protocol)
    if damaged:
        again = f"{len(damaged)} damaged shards of features were extracted anew, first {damaged[0]}"
        found.notes.append(f"{stream.origin}: {again}")
    return found


def describe(stream: ImageStream, protocol: Protocol, extractor: Extractor) -> dict[str, Any]:
    """Describe all that features depend on apart from the content of each image."""
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
    """Extract what a shard does not hold, write it, and return why images could not be used.

    The name of a damaged shard goes to `damaged`.
    """
    path = _shard(folder, rows)
    stamps = torch.stack([digest(os.fsencode(stream.stamp(row))) for row in rows])
    kept = _kept(path, rows, stamps, damaged)
    held = set(kept["rows"].tolist()) if kept else set()
    absent = [row for row in rows if row not in held]
    if not absent:
        return []
    failures: list[str] = []
    made = list(compute_blocks(stream, absent, protocol, extractor, failures))
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
