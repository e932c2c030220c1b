"""Read network pickles as data, with our own constructors for the classes, arrays and tensors in them.

Pickles of the protocols 2 to 5 and files of `torch.save` are read.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.pickles.machine import Constructors, Machine, Refused, keys, one_line
from distill.storage.pickles.torch_file import LEGACY, STORAGE_NAMES, TENSOR, ZIP, read_legacy, read_zip


@dataclasses.dataclass
class PickledObject:
    """An object as data: the name of its class and its attributes."""

    class_name: str
    state: dict[str, Any]


def read_pickle(path: Path) -> Any:
    """Read the data in a network pickle or a file of `torch.save`, and run no code in it.

    A file that asks for anything but data is refused.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
            return _read(file, source)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Refused as error:
        raise UserError(f"{path}: {error}, which no network pickle does") from error
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: is broken or no network pickle ({one_line(error)})") from error


def _read(file: IO[bytes], source: mmap.mmap) -> Any:
    constructors = FileConstructors(len(source)).table()
    if source[: len(ZIP)] == ZIP:
        return read_zip(file, len(source), {**constructors, **STORAGE_NAMES}, give_state)
    if source[: len(LEGACY)] == LEGACY:
        return read_legacy(source, {**constructors, **STORAGE_NAMES}, give_state)
    value = Machine(source, constructors, give_state).run()
    if source.tell() < len(source):
        raise Refused("goes on after its end")
    return value


class FileConstructors:
    """The constructors for one file of `size` bytes, with a limit on the memory that they allocate.

    A pickle may refer many times to bytes that it holds once. All copies together may take four times the
    file's size, which is enough for a good file: protocol 2 writes a storage as text, which is copied to
    bytes and then to a tensor, and the older format of `torch.save` is read twice.
    """

    def __init__(self, size: int) -> None:
        self.left = 4 * size

    def table(self) -> Constructors:
        """Return the constructors by the names that they replace."""
        names: dict[str, Any] = {
            "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
            "dnnlib.util.EasyDict": lambda: {},
            "collections.OrderedDict": lambda: {},
            "torch.nn.modules.container.ModuleDict": lambda: PickledObject("ModuleDict", {}),
            TENSOR: _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.storage._load_from_bytes": self._storage,
            "_codecs.encode": self._bytes,
            "numpy.ndarray": None,
            "numpy.dtype": _dtype,
        }
        for core in ("core", "_core"):
            names[f"numpy.{core}.multiarray._reconstruct"] = _array
            names[f"numpy.{core}.multiarray.scalar"] = _scalar
            names[f"numpy.{core}.numeric._frombuffer"] = _array_of_buffer
        for builtins in ("builtins", "__builtin__"):  # protocol 3, and 2
            names[f"{builtins}.set"] = lambda items: keys(items)
            names[f"{builtins}.bytes"] = lambda: b""
        return names

    def _bytes(self, text: Any, encoding: Any) -> bytes:
        """Make bytes from text of the characters 0 to 255, as protocol 2 writes them."""
        if encoding != "latin1":
            raise Refused(f"calls _codecs.encode with {one_line(encoding)}")
        self._count(len(_expect(str, text)))
        return text.encode("latin-1")

    def _storage(self, data: Any) -> Tensor:
        """Make a flat tensor from the bytes of torch's older format, whichever device wrote them."""
        self._count(len(_expect(bytes, data)))
        return _expect(Tensor, read_legacy(io.BytesIO(data), STORAGE_NAMES, give_state))

    def _count(self, count: int) -> None:
        """Count bytes that are about to be copied against the limit."""
        self.left -= count
        if self.left < 0:
            raise Refused("unpacks to many times its size")


def _persistent_object(meta: Any) -> PickledObject:
    """Make an object that carries the source of its class; the source is ignored."""
    if meta["type"] != "class" or meta["version"] != 6:
        raise ValueError("an object with source is not of version 6")
    return PickledObject(_expect(str, meta["class_name"]), _expect(dict, meta["state"]))


def _dtype(name: Any, align: Any, copy: Any) -> np.dtype:
    if name not in ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        raise Refused(f"has an array of {one_line(name)}")
    return np.dtype(f"<{name}")


def _scalar(dtype: Any, data: Any) -> Any:
    (value,) = np.frombuffer(_expect(bytes, data), _expect(np.dtype, dtype))
    return value.item()


def _array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    return np.empty(0)  # the state that follows replaces it


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Make an array that shares the memory of its bytes, as protocol 5 writes it."""
    buffer = _expect((bytes, bytearray), data)
    return np.frombuffer(buffer, _expect(np.dtype, dtype)).reshape(shape, order=order)


def give_state(target: Any, state: Any) -> None:
    """Fill an object with the state that a pickle has for it.

    An object that takes no state raises Refused; a state of a wrong type raises TypeError.
    """
    if isinstance(target, PickledObject) and not target.state:
        target.state = _expect(dict, state)
    elif isinstance(target, np.dtype):
        if _expect(tuple, state)[1:5] not in (("<", None, None, None), ("|", None, None, None)):
            raise Refused("has an array of structures, or not a little-endian one")
    elif isinstance(target, np.ndarray):
        _, shape, dtype, fortran, data = state
        numbers = np.frombuffer(_expect(bytes, data), _expect(np.dtype, dtype))
        numbers.reshape(shape)  # raises ValueError if they do not fit
        target.__setstate__((1, shape, dtype, fortran, data))
    elif not (isinstance(target, dict) and state == {}):
        raise Refused(f"gives a state to a {type(target).__name__}")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    try:
        tensor = torch.as_strided(_expect(Tensor, storage), size, stride, offset)
    except RuntimeError as error:
        raise ValueError("a tensor reaches beyond its storage") from error
    if tensor.numel() > storage.numel():
        raise ValueError("a tensor has more numbers than its storage")
    return tensor


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    return _expect(Tensor, data)


def _expect(kind: type | tuple[type, ...], value: Any) -> Any:
    """Return a value of this type, or raise TypeError."""
    if not isinstance(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else kind[0].__name__
        raise TypeError(f"a {type(value).__name__} stands where a {expected} should")
    return value
