"""Network pickles as data: what our machine builds where a pickle names a class that saves its source, NumPy's arrays or torch's tensors."""

from __future__ import annotations

import dataclasses
import io
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.errors import UserError
from distill.pickle_machine import Constructors, Machine, Refused, one_line


@dataclasses.dataclass
class PickledObject:
    """An object as data: the name of its class, and its attributes."""

    class_name: str
    state: dict[str, Any]


def read_pickle(path: Path) -> Any:
    """The data in a network pickle. Raises UserError, and runs nothing of it, where it is missing or broken or asks for anything else."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
            value = Machine(source, CONSTRUCTORS, _give_state).run()
            if source.tell() < len(source):
                raise Refused("goes on after its end")
            return value
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Refused as error:
        raise UserError(f"{path}: {error}, which no network pickle does") from error
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: is broken or no network pickle ({one_line(error)})") from error


def _persistent_object(meta: Any) -> PickledObject:
    """An object that brings its class's source along; the source is not looked at."""
    if meta["type"] != "class" or meta["version"] != 6:
        raise ValueError("an object with source is not of version 6")
    return PickledObject(_a(str, meta["class_name"]), _a(dict, meta["state"]))


def _dtype(name: Any, align: Any, copy: Any) -> np.dtype:
    if name not in ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        raise Refused(f"has an array of {one_line(name)}")
    return np.dtype(f"<{name}")


def _scalar(dtype: Any, data: Any) -> Any:
    (value,) = np.frombuffer(_a(bytes, data), _a(np.dtype, dtype))
    return value.item()


def _array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    return np.empty(0)  # its state says what it is


def _give_state(target: Any, state: Any) -> None:
    if isinstance(target, PickledObject) and not target.state:
        target.state = _a(dict, state)
    elif isinstance(target, np.dtype):
        if _a(tuple, state)[1:5] not in (("<", None, None, None), ("|", None, None, None)):
            raise Refused("has an array of structures, or not a little-endian one")
    elif isinstance(target, np.ndarray):
        _, shape, dtype, fortran, data = state
        np.frombuffer(_a(bytes, data), _a(np.dtype, dtype)).reshape(shape)  # raises where they do not fit
        target.__setstate__((1, shape, dtype, fortran, data))
    elif not (isinstance(target, dict) and state == {}):
        raise Refused(f"gives a state to a {type(target).__name__}")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> Tensor:
    try:
        return torch.as_strided(_a(Tensor, storage), size, stride, offset)
    except RuntimeError as error:
        raise ValueError("a tensor reaches beyond its storage") from error


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    return _a(Tensor, data)


def _storage(data: Any) -> Tensor:
    """A flat tensor from what torch's legacy format wrote, on whatever device, as five pickles and the raw numbers."""
    source = io.BytesIO(_a(bytes, data))
    magic, version, system, described, keys = (Machine(source, STORAGE_NAMES, _give_state, persistent_ids=True).run() for _ in range(5))
    if magic != 0x1950A86A20F9469CFC6C or version != 1001 or system["little_endian"] is not True:
        raise ValueError("a storage is not of torch's legacy format")
    what, kind, name, _device, count, view = described
    start = source.tell()
    (written,) = struct.unpack_from("<q", data, start)
    dtype = STORAGES[kind.text]
    if what != "storage" or view is not None or keys != [name] or written != count or len(data) != start + 8 + count * dtype.itemsize:
        raise ValueError("a storage is not of the size that it says")
    return torch.frombuffer(bytearray(memoryview(data)[start + 8 :]), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _a(kind: Any, value: Any) -> Any:
    """The value, which is to be of this kind. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


CONSTRUCTORS: Constructors = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "dnnlib.util.EasyDict": lambda: {},
    "collections.OrderedDict": lambda: {},
    "torch.nn.modules.container.ModuleDict": lambda: PickledObject("ModuleDict", {}),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Bool": torch.bool,
    }.items()
}
STORAGE_NAMES: Constructors = dict.fromkeys(STORAGES)
