"""Inputs of a run that were computed once, in shards: latents of images, and encodings of prompts.

`python -m distill precompute` writes them. A folder holds `latents`, `prompts` or both; each of these holds
an `index.json`, which says what the inputs are and what they depend on, and files of at most `SHARD` rows,
each whole or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.storage.files import new_file, read_mapping, write_json
from distill.storage.tensors import load_sealed_tensors, open_tensors, save_tensors
from distill.storage.unfinished import UNFINISHED
from distill.types import DataSource

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, INDEX = "distill-inputs/1", "index.json"
LATENTS, PROMPTS = "latents", "prompts"
SHARD = 256
"""Rows in a file."""


@runtime_checkable
class LatentSource(DataSource, Protocol):
    """A `DataSource` of latents, which belong to one autoencoder."""

    autoencoder: Mapping[str, str]
    """Hashes of the autoencoder's parts by name."""


class Shards:
    """Tensors of `count` rows by name, in files that each process may write or read by itself."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        starts = range(0, count, SHARD)
        self.rows = {
            path / f"{start:08d}.safetensors": range(start, min(start + SHARD, count)) for start in starts
        }
        self._opened: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def absent(self) -> list[Path]:
        """Return the files that are not there."""
        return [path for path in self.rows if not path.is_file()]

    def write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Write one file, whole or not at all."""
        with new_file(path) as partial:
            save_tensors(partial, tensors, sealed=True)

    def row(self, row: int) -> dict[str, Tensor]:
        """Read one row of every tensor, (1, ...), without reading the rest of its file."""
        start = row - row % SHARD
        path = self.path / f"{start:08d}.safetensors"
        if path not in self._opened:
            self._opened[path] = open_tensors(path)
        file = self._opened[path]
        names = list(file.keys())
        return {name: file.get_slice(name)[row - start : row - start + 1] for name in names}

    def all(self) -> dict[str, Tensor]:
        """Read all rows of every tensor, and check that no file is damaged."""
        import torch

        parts = [load_sealed_tensors(path) for path in self.rows]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def begin(folder: Path, description: Mapping[str, Any]) -> Shards:
    """Begin to write inputs, or continue; a folder that holds others is refused."""
    index = folder / INDEX
    described = {"format": FORMAT, **description}
    if index.is_file():
        for key, there, here in differences(read_mapping(index), described):
            raise UserError(
                f"--out: {folder} holds other inputs: {key} is {there!r} there and {here!r} here; "
                "give another folder"
            )
    elif folder.exists() and any(not UNFINISHED.fullmatch(path.name) for path in folder.iterdir()):
        raise UserError(f"--out: {folder} is there and holds no {INDEX}; expected a new folder")
    else:
        write_json(index, described)
    return Shards(folder, description["count"])


def open_inputs(folder: Path, key: str, kinds: Mapping[str, type]) -> tuple[dict[str, Any], Shards]:
    """Return what is said of inputs, and their files, all of which must be there; `key` names the setting.

    `kinds` are the entries that the description must have, with their types.
    """
    command = "expected a folder that python -m distill precompute wrote"
    if not (folder / INDEX).is_file():
        raise UserError(f"{key}: {folder} holds no {INDEX}; {command}")
    description = read_mapping(folder / INDEX)
    if description.get("format") != FORMAT or not isinstance(description.get("count"), int):
        raise UserError(f"{key}: {folder / INDEX} is not of the format '{FORMAT}'; {command}")
    for name, kind in kinds.items():
        if not isinstance(description.get(name), kind):
            raise UserError(f"{key}: {folder / INDEX} has no {name} that can be read; {command}")
    shards = Shards(folder, description["count"])
    absent = shards.absent()
    if absent:
        raise UserError(
            f"{key}: {folder} lacks {len(absent)} of {len(shards.rows)} files, the first {absent[0].name}; "
            "run the same python -m distill precompute again, which goes on"
        )
    return description, shards


def refuse_others(there: Mapping[str, Any], here: Mapping[str, Any], key: str, folder: Path) -> None:
    """Raise UserError if inputs depend on something else than this run would compute them with."""
    for name, theirs, ours in differences(there, here):
        raise UserError(
            f"{key}: {folder} belongs to another teacher: {name} is {theirs!r} there and {ours!r} here; "
            "expected the inputs of this one"
        )
