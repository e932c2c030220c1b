"""Sharded tensors as safetensors files: one file for each shard, which holds some rows of every tensor.

A file's metadata say which rows: `rows` maps the name of a tensor to its first row here and the number of
all rows, and `bound` lists tensors that only the same shard of as many can use. Tensors that are in neither
belong to all shards; the first file has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError, reading
from distill.storage.tensors import open_tensors, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

ROWS, BOUND = "rows", "bound"
"""Keys of the metadata, whose values are JSON."""


def whole_path(folder: Path, name: str) -> Path:
    """Return the file of tensors that are not sharded."""
    return folder / f"{name}.safetensors"


def shard_path(folder: Path, name: str, index: int, count: int) -> Path:
    """Return the file of shard `index` of `count`. Names of files count from 1."""
    return folder / f"{name}.shard-{index + 1:04d}-of-{count:04d}.safetensors"


def save_shard(
    path: Path, tensors: dict[str, Tensor], rows: Mapping[str, tuple[int, int]], bound: Sequence[str]
) -> None:
    """Write the tensors of one shard.

    `rows` has the first row and the number of all rows of those that are split. `bound` names those that
    only the same shard of as many can use.
    """
    save_tensors(path, tensors, metadata={ROWS: json.dumps(rows), BOUND: json.dumps(bound)})


class SavedTensors:
    """Reads tensors that were saved under a name, in one file or in shards, and no more than it is asked for.

    The tensors that it returns may be views of files: copy them, and let go of this object.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.files = _files(folder, name)
        self.path = self.files[0]
        """The first file, which has an entry for every tensor."""
        self._opened: dict[int, Any] = {}
        self._rows: dict[int, dict[str, tuple[int, int]]] = {}
        first = self._open(0)
        self.names: list[str] = list(first.keys())
        with reading(self.path):
            self._bound = set(json.loads((first.metadata() or {}).get(BOUND, "[]")))

    @property
    def shards(self) -> int:
        """The number of files."""
        return len(self.files)

    def is_bound(self, name: str) -> bool:
        """Tell whether each shard has a tensor of its own by this name, which others cannot use."""
        return name in self._bound

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor; of a bound one, that of the first shard's."""
        stored = tuple(self._open(0).get_slice(name).get_shape())
        return (self._rows[0][name][1], *stored[1:]) if name in self._rows[0] else stored

    def bound(self, name: str, shard: int) -> Tensor:
        """Read the bound tensor of one shard."""
        tensor: Tensor = self._open(shard).get_tensor(name)
        return tensor

    def whole(self, name: str) -> Tensor:
        """Read a tensor, from all shards if it is split."""
        if name in self._rows[0]:
            return self.rows(name, range(self.shape(name)[0]))
        tensor: Tensor = self._open(0).get_tensor(name)
        # A view would keep a whole file in memory for a single number.
        return tensor.clone() if tensor.ndim == 0 else tensor

    def rows(self, name: str, rows: range) -> Tensor:
        """Read some rows of a tensor, from the shards that have them."""
        import torch

        if name not in self._rows[0] or not rows:
            tensor: Tensor = self._open(0).get_slice(name)[rows.start : rows.stop]
            return tensor
        # Every shard is as long as the first, but for the last ones.
        length = self._open(0).get_slice(name).get_shape()[0]
        shards = range(rows.start // length, -(-rows.stop // length))
        parts = [self._rows_in(shard, name, rows, shard * length) for shard in shards]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rows_in(self, shard: int, name: str, rows: range, first: int) -> Tensor:
        """Read those of some rows that one shard has, whose own begin with `first`."""
        stored = self._open(shard).get_slice(name)
        if self._rows[shard][name][0] != first:
            raise UserError(f"{self.files[shard]}: has rows of {name} that belong to another shard")
        start, stop = max(rows.start, first), min(rows.stop, first + stored.get_shape()[0])
        tensor: Tensor = stored[start - first : stop - first]
        return tensor

    def _open(self, shard: int) -> Any:
        """Open a shard's file once."""
        if shard not in self._opened:
            file = open_tensors(self.files[shard])
            with reading(self.files[shard]):
                self._rows[shard] = json.loads((file.metadata() or {}).get(ROWS, "{}"))
            self._opened[shard] = file
        return self._opened[shard]


def _files(folder: Path, name: str) -> list[Path]:
    """Return the files of a name: one, or as many as the name of the first shard's says."""
    whole = whole_path(folder, name)
    first = sorted(folder.glob(f"{name}.shard-0001-of-*.safetensors"))
    if whole.is_file() or not first:
        return [whole]
    count = first[0].stem.rpartition("-")[2]
    return [shard_path(folder, name, index, int(count)) for index in range(int(count))]
