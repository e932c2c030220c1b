"""Pickles that an attacker might write, put together from opcodes of protocol 4."""

from __future__ import annotations

import struct

import torch

COMMAND = "touch executed"
"""The command that hostile files try to run."""


def denied(request: str) -> str:
    """Return the message about a pickle that asks for something that data does not need."""
    return f"{request}, which no network pickle does"


def broken(reason: str) -> str:
    """Return the message about a pickle that cannot be read."""
    return f"is broken or no network pickle ({reason})"


def text(value: str) -> bytes:
    """Push a text of less than 256 bytes."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """Push an object by its name."""
    return text(module) + text(attribute) + b"\x93"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """Call a function by its name and push what it returns."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def long(value: bytes) -> bytes:
    """Push bytes of any length."""
    return b"B" + struct.pack("<I", len(value)) + value


def whole(body: bytes) -> bytes:
    """Make a whole pickle of opcodes."""
    return b"\x80\x04" + body + b"."


def storage(numbers: int, old: bytes = b"", new: bytes = b"") -> bytes:
    """Call torch to load a storage of so many zeros, in whose bytes `old` is replaced by `new`."""
    (data,) = torch.zeros(numbers)._typed_storage().__reduce__()[1]
    assert not old or old in data
    return call("torch.storage", "_load_from_bytes", long(data.replace(old, new)))


def tensor(stored: bytes, offset: int, size: int, stride: int) -> bytes:
    """Call torch to make a tensor of one dimension from a storage."""
    numbers = b"K" + bytes([offset]) + b"K" + bytes([size]) + b"\x85" + b"K" + bytes([stride]) + b"\x85"
    return call("torch._utils", "_rebuild_tensor_v2", stored, numbers, b"\x89", b"}")


SYSTEM = call("os", "system", text(COMMAND))
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
META = (
    text("type")
    + text("class")
    + text("version")
    + b"K\x06"
    + text("module_src")
    + text(f"import os; os.system('{COMMAND}')")
)
MODULE = (
    text("_init_args") + b")" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}"
)
SIZES = text("img_resolution") + b"K\x08" + text("img_channels") + b"K\x03"


def network(class_name: str, *arguments: bytes) -> bytes:
    """Make a whole pickle of {"ema": an object of this class, made with these arguments, without weights}."""
    state = text("state") + b"}(" + MODULE + text("_init_kwargs") + b"}(" + b"".join(arguments) + b"uu"
    made = call(*PERSISTENT, b"}(" + META + text("class_name") + text(class_name) + state + b"u")
    return whole(b"}" + text("ema") + made + b"s")
