"""Read files of `torch.save` as data: the zip archives that it writes since torch 1.6, and the older format.

Both hold a pickle that refers to its storages (flat arrays of numbers) by id, and the storages beside it. The
older format is also how a storage is written inside another pickle.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

from distill.storage.pickles.machine import Constructors, Machine, Name, Refused, one_line

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file of the older format: a pickle of its magic number."""
ZIP = b"PK\x03\x04"
"""First bytes of a zip archive."""
MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
"""Numbers with which a file of the older format begins."""
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
STORAGE_NAMES: Constructors = dict.fromkeys(STORAGES)
TENSOR = "torch._utils._rebuild_tensor_v2"
"""Name of the function that a pickle calls to make a tensor from a storage."""
WRONG_SIZE = "a storage is not of the size that it says"

GiveState = Callable[[Any, Any], None]


def read_zip(file: IO[bytes], size: int, constructors: Constructors, give_state: GiveState) -> Any:
    """Read the value in a zip archive of `torch.save`, a file of `size` bytes.

    Raise Refused for any other archive, or one of the errors that broken data leads to.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    with archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("is a zip archive without one data.pkl, as torch.save writes it")
        storages = _ZipStorages(archive, pickles[0].removesuffix("data.pkl"), size)
        if "byteorder" in storages and storages.read("byteorder") != b"little":
            raise Refused("has numbers that are not little-endian")
        return Machine(io.BytesIO(storages.read("data.pkl")), constructors, give_state, storages.load).run()


def read_legacy(source: io.BytesIO | mmap.mmap, constructors: Constructors, give_state: GiveState) -> Any:
    """Read the value in a file of torch's older format.

    The storages come after the pickle that refers to them. So the pickle is run twice: first to find its end
    and the storages that it needs, then to build the value.

    Raise Refused, or one of the errors that broken data leads to.
    """
    magic, version, system = (Machine(source, {}, give_state).run() for _ in range(3))
    if magic != MAGIC or version != VERSION or system["little_endian"] is not True:
        raise ValueError("a storage is not of torch's legacy format")
    start = source.tell()
    storages = _LegacyStorages(_size(source))
    no_tensors: Constructors = {TENSOR: storages.placeholder} if TENSOR in constructors else {}
    Machine(source, {**constructors, **no_tensors}, give_state, storages.note).run()
    keys = Machine(source, {}, give_state).run()
    storages.read(source, keys)
    source.seek(start)
    return Machine(source, constructors, give_state, storages.load).run()


class _ZipStorages:
    """The storages in a folder of an archive, which together may take no more memory than the archive.

    None may be compressed, and each is read once.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self.archive = archive
        self.folder = folder
        self.size = size
        self.left = size  # bytes that may still be read
        self.names = frozenset(archive.namelist())
        self.storages: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return f"{self.folder}{name}" in self.names

    def read(self, name: str) -> bytes:
        """Read a file.

        Raise Refused if it takes more memory than the archive allows, ValueError if it is missing or broken.
        """
        if name not in self:
            raise ValueError(f"it has no {name}")
        entry = self.archive.getinfo(f"{self.folder}{name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise Refused("has compressed numbers")
        self.left -= entry.file_size
        if self.left < 0:
            raise Refused("unpacks to more than its size")
        try:
            return self.archive.read(entry)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(str(error)) from error

    def load(self, identity: Any) -> Any:
        """Return the storage, or the name of a class, that an id in the pickle refers to."""
        if _is_class(identity):
            return identity[1]
        key, dtype, count = _describe(identity, self.size)
        if key not in self.storages:
            self.storages[key] = _numbers(self.read(f"data/{key}"), dtype, count)
        storage = self.storages[key]
        if storage.dtype != dtype or len(storage) != count:
            raise ValueError(WRONG_SIZE)
        return storage


class _LegacyStorages:
    """The storages of an older file of `size` bytes, noted in the first run and loaded in the second."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.needed: dict[str, tuple[torch.dtype, int]] = {}
        self.storages: dict[str, Tensor] = {}

    def placeholder(self, *arguments: Any) -> Tensor:
        """Return the empty tensor that replaces every storage and every tensor in the first run."""
        return torch.empty(0)

    def note(self, identity: Any) -> Any:
        """Remember the key, type and size of the storage that an id refers to."""
        if _is_class(identity):
            return identity[1]
        key, dtype, count = _describe(identity, self.size)
        if self.needed.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError(WRONG_SIZE)
        return self.placeholder()

    def read(self, source: io.BytesIO | mmap.mmap, keys: Any) -> None:
        """Read the storages of these keys, which fill the rest of the source."""
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.needed):
            raise ValueError(WRONG_SIZE)
        for key in map(str, keys):
            dtype, count = self.needed[key]
            (written,) = struct.unpack("<q", source.read(8))
            if written != count:
                raise ValueError(WRONG_SIZE)
            self.storages[key] = _numbers(source.read(count * dtype.itemsize), dtype, count)
        if source.tell() != self.size:
            raise ValueError(WRONG_SIZE)

    def load(self, identity: Any) -> Any:
        """Return the storage, or the name of a class, that an id in the pickle refers to."""
        return identity[1] if _is_class(identity) else self.storages[identity[2]]


def _is_class(identity: Any) -> bool:
    """Return True for the id of a class, which the older format writes with its source; that is ignored."""
    return (
        isinstance(identity, tuple)
        and len(identity) == 4
        and identity[0] == "module"
        and isinstance(identity[1], Name)
    )


def _describe(identity: Any, size: int) -> tuple[str, torch.dtype, int]:
    """Return key, type and count of numbers of the storage that an id refers to, in a file of `size` bytes.

    An id of anything else raises ValueError or TypeError.
    """
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError(WRONG_SIZE)
    _, kind, key, _device, count, *view = identity
    if not isinstance(kind, Name):
        raise TypeError(f"a {type(kind).__name__} stands where a Name should")
    if kind.text not in STORAGES:
        raise Refused(f"has a storage of {one_line(kind.text)}")
    if not isinstance(key, str) or type(count) is not int or view not in ([], [None]):
        raise TypeError(WRONG_SIZE)
    dtype = STORAGES[kind.text]
    if not 0 <= count * dtype.itemsize <= size:
        raise ValueError(WRONG_SIZE)
    return key, dtype, count


def _numbers(data: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(data) != count * dtype.itemsize:
        raise ValueError(WRONG_SIZE)
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _size(source: io.BytesIO | mmap.mmap) -> int:
    return source.size() if isinstance(source, mmap.mmap) else len(source.getbuffer())
