"""Broken pickles, and values that lie about their size or type, are refused in one line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.networks.edm.published import read_network
from tests.helpers.hostile_pickles import (
    SYSTEM,
    broken,
    call,
    denied,
    long,
    name,
    storage,
    tensor,
    text,
    whole,
)

ORACLES = Path(__file__).parents[1] / "oracles"
EMPTY_ARRAY = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
FLOAT = call("numpy", "dtype", text("f4"), b"\x89\x88")
BAD_VALUES = {
    "a storage of no class": (
        storage(3, b"ctorch\nFloatStorage\n", b"X\x01\x00\x00\x00x"),
        broken("a str stands where a Name should"),
    ),
    "an array of objects": (call("numpy", "dtype", text("O8"), b"\x89\x88"), denied("has an array of O8")),
    "an array of structures": (
        FLOAT + b"(K\x03" + text("<") + b"N)}t" + b"b",
        denied("has an array of structures, or not a little-endian one"),
    ),
    "an array larger than its data": (
        EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT + b"\x89C\x04\x00\x00\x00\x00tb",
        broken("cannot reshape array of size 1 into shape (2147483647,)"),
    ),
    "a number of two numbers": (
        call("numpy.core.multiarray", "scalar", FLOAT, b"C\x08" + bytes(8)),
        broken("too many values to unpack (expected 1)"),
    ),
    "a storage that is a pickle with code": (
        call("torch.storage", "_load_from_bytes", long(whole(SYSTEM))),
        denied("asks for os.system"),
    ),
    "a storage of a hostile class": (
        storage(3, b"ctorch\nFloatStorage\n", b"cposix\nsystem\n"),
        denied("asks for posix.system"),
    ),
    "a module instead of a storage": (
        storage(3, b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00modules"),
        broken("a storage is not of the size that it says"),
    ),
    "a storage in a zip file": (
        call("torch.storage", "_load_from_bytes", long(b"PK\x03\x04\n")),
        denied("uses the opcode PERSID"),
    ),
    "a storage with something after it": (
        storage(1, bytes(4), bytes(4) + SYSTEM),
        broken("a storage is not of the size that it says"),
    ),
    "a storage within a storage": (
        call("torch.storage", "_load_from_bytes", long(whole(storage(1)))),
        denied("asks for torch.storage._load_from_bytes"),
    ),
    "a set of lists": (call("builtins", "set", b"]]a"), broken("a list is a key")),
    "a set of a number": (call("builtins", "set", b"K\x01"), broken("a int stands where a list should")),
    "bytes of another encoding": (
        call("_codecs", "encode", text("aaaa"), text("zlib")),
        denied("calls _codecs.encode with zlib"),
    ),
    "bytes beyond latin1": (
        call("_codecs", "encode", text("\u0100"), text("latin1")),
        broken("'latin-1' codec can't encode character '\\\\u0100' in position 0: ordinal not in range(256)"),
    ),
    "a tensor larger than its storage": (
        tensor(storage(3), 0, 200, 0),
        broken("a tensor has more numbers than its storage"),
    ),
    "an array of a buffer larger than the buffer": (
        call(
            "numpy.core.numeric",
            "_frombuffer",
            b"C\x04\x00\x00\x00\x00",
            FLOAT,
            b"J\xff\xff\xff\x7f\x85",
            text("C"),
        ),
        broken("cannot reshape array of size 1 into shape (2147483647,)"),
    ),
    "a tensor beyond its storage": (
        tensor(storage(3), 1, 3, 1),
        broken("a tensor reaches beyond its storage"),
    ),
    "a tensor without a storage": (tensor(text("x"), 0, 1, 1), broken("a str stands where a Tensor should")),
    "bytes of 4 EiB": (
        b"\x8e" + struct.pack("<Q", 2**62) + b"x",
        broken(f"expected {2**62} bytes in a bytes8, but only 2 remain"),
    ),
    "text of 4 GiB": (
        b"X\xff\xff\xff\xff" + b"x",
        broken("expected 4294967295 bytes in a unicodestring4, but only 2 remain"),
    ),
    "a key that is a list": (b"}]Ns", broken("a list is a key")),
    "a key of very many levels": (b"})" + b"\x85" * 10_000 + b"Ns", broken("a tuple is a key")),
    "a key without a value": (
        b"}(" + text("ema") + b"u",
        broken("zip() argument 2 is shorter than argument 1"),
    ),
    "items for what is no list": (b"}(Ne", broken("a dict stands where a list should")),
    "a memory that nothing is in": (b"h\x07", broken("7")),
    "a mark left over": (b"(N", broken("a mark is left over")),
    "an empty stack": (b"", broken("not enough values to unpack (expected 1, got 0)")),
    "a stack that is too low": (b"\x87", broken("the stack is empty")),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_that_no_network_has_is_refused(refused, case: str) -> None:
    body, message = BAD_VALUES[case]
    assert refused(whole(body)) == message


@pytest.mark.parametrize("kind", ["a storage", "bytes as text"])
def test_bytes_that_are_held_once_are_not_copied_without_end(refused, kind: str) -> None:
    """A pickle refers 60 times to 64 KiB, which would take 4 MiB; a larger file could take any amount."""
    if kind == "a storage":
        held = long(torch.zeros(16_384)._typed_storage().__reduce__()[1][0])
        copied = call("torch.storage", "_load_from_bytes", b"h\x00")
    else:
        held = b"X" + struct.pack("<I", 65_536) + b"x" * 65_536
        copied = call("_codecs", "encode", b"h\x00", text("latin1"))
    assert refused(whole(b"](" + held + b"\x94" + 60 * copied + b"e")) == denied(
        "unpacks to many times its size"
    )


def test_a_pickle_of_very_many_steps_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.storage.pickles.machine.MAX_STEPS", 1000)
    assert refused(whole(b"N" * 1000)) == denied("has more than 1000 steps")


@pytest.mark.parametrize("length", [1, 2, 10, 100, 5_000, 50_000, 124_605])
def test_a_truncated_network_is_refused(refused, length: int) -> None:
    data = (ORACLES / "edm2_tiny.pkl").read_bytes()
    assert len(data) == 124_606
    assert refused(data[:length]).startswith("is broken or no network pickle (")


@pytest.mark.parametrize("place", range(0, 124_606, 6_007))
def test_a_damaged_network_is_refused_or_read_but_never_run(tmp_path: Path, place: int) -> None:
    data = bytearray((ORACLES / "edm2_tiny.pkl").read_bytes())
    data[place] ^= 0xFF
    path, messages = tmp_path / "network.pkl", []
    path.write_bytes(data)
    try:
        read_network(path)
    except UserError as error:
        messages.append(str(error))
    assert all(message.isprintable() for message in messages)
