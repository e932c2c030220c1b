"""Harmful or broken files of `torch.save` are refused in one line, run no code and take little memory."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.networks.edm.published import read_network
from distill.storage.pickles.reader import read_pickle
from tests.helpers.hostile_pickles import broken, denied

WRONG_SIZE = broken("a storage is not of the size that it says")
VALUE = {"weight": torch.arange(4.0), "bias": torch.arange(2)}


def saved(value: object, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """Return the files in an archive of `torch.save` by name."""
    with zipfile.ZipFile(io.BytesIO(saved(VALUE))) as archive:
        return {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}


def zipped(changed: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Make an archive of `torch.save` with some files replaced, or left out if their content is None."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in {**files(), **changed}.items():
            if content is not None:
                archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


class Code:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('the file was executed')",)


PICKLE = files()["data.pkl"]
ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no pickle": (
        lambda: zipped({"data.pkl": None}),
        denied("is a zip archive without one data.pkl, as torch.save writes it"),
    ),
    "code in the pickle": (
        lambda: zipped({"data.pkl": pickle.dumps(Code(), 2)}),
        denied("asks for __builtin__.exec"),
    ),
    "code in a storage": (lambda: zipped({"data/0": pickle.dumps(Code(), 2)[:16]}), ""),
    "numbers of another machine": (
        lambda: zipped({"byteorder": b"big"}),
        denied("has numbers that are not little-endian"),
    ),
    "compressed numbers": (lambda: zipped({}, zipfile.ZIP_DEFLATED), denied("has compressed numbers")),
    "a storage that is not there": (lambda: zipped({"data/0": None}), broken("it has no data/0")),
    "a storage that is shorter": (lambda: zipped({"data/0": bytes(12)}), WRONG_SIZE),
    "a storage that is longer": (lambda: zipped({"data/0": bytes(20)}), WRONG_SIZE),
    "a storage of another type": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"ctorch\nFloatStorage", b"ctorch\nEvilStorage")}),
        denied("asks for torch.EvilStorage"),
    ),
    "a type that is a function": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"ctorch\nFloatStorage", b"ccollections\nOrderedDict")}),
        denied("has a storage of collections.OrderedDict"),
    ),
    "an id of something else": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"storage", b"modules")}),
        WRONG_SIZE,
    ),
    "a storage of 4 GiB": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"K\x04t", b"J\xff\xff\xff\x7ft")}),
        WRONG_SIZE,
    ),
    "a storage of less than nothing": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"K\x04t", b"J\xff\xff\xff\xfft")}),
        WRONG_SIZE,
    ),
    "a storage outside the folder": (
        lambda: zipped({"data.pkl": PICKLE.replace(b"X\x01\x00\x00\x000q", b"X\x09\x00\x00\x00../../x/yq")}),
        broken("it has no data/../../x/y"),
    ),
}


def refusal(data: bytes, folder: Path) -> str | None:
    """Return the one line that refuses a file, without its path, or None if the file is read."""
    path = folder / "training-state.pt"
    path.write_bytes(data)
    try:
        read_pickle(path)
    except UserError as error:
        message = str(error)
        assert message.isprintable()
        assert message.startswith(f"{path}: ")
        return message.removeprefix(f"{path}: ")
    return None


@pytest.mark.parametrize("case", ZIPS)
def test_an_archive_of_something_else_is_refused(case: str, tmp_path: Path) -> None:
    build, message = ZIPS[case]
    assert (refusal(build(), tmp_path) or "") == message


def test_an_archive_whose_files_lie_over_one_another_takes_no_more_than_its_size(tmp_path: Path) -> None:
    """Fifty entries of the archive's directory refer to the same storage of 1 MiB."""
    count, size = 50, 2**20
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("archive/data.pkl", _many_storages(count, size // 4))
        written.writestr("archive/data/0", bytes(size))
        entry = written.getinfo("archive/data/0")
        for key in range(1, count):
            other = zipfile.ZipInfo(f"archive/data/{key}")
            for name in ("file_size", "compress_size", "CRC", "header_offset", "compress_type"):
                setattr(other, name, getattr(entry, name))
            written.filelist.append(other)
            written.NameToInfo[other.filename] = other
        written._didModify = True  # type: ignore[attr-defined]
    path = tmp_path / "bomb.pt"
    path.write_bytes(buffer.getvalue())
    assert path.stat().st_size < 1.1 * size
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bomb\.pt: "):
        read_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert peak < 8 * size


def _many_storages(count: int, numbers: int) -> bytes:
    """Make a pickle that lists so many storages, "0", "1", ..., each of so many numbers."""
    body = b"\x80\x02]("
    for key in range(count):
        name = str(key).encode()
        body += b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + struct.pack("<I", len(name)) + name
        body += b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", numbers) + b"tQ"
    return body + b"e."


LEGACY: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "something behind it": (lambda data: data + b"x", WRONG_SIZE),
    "less than its numbers": (lambda data: data[:-1], WRONG_SIZE),
    "a storage of 8 GiB": (lambda data: data.replace(b"K\x04N", b"J\xff\xff\xff\x7fN"), WRONG_SIZE),
    "another count before the numbers": (
        lambda data: data.replace(struct.pack("<q", 4), struct.pack("<q", 5)),
        WRONG_SIZE,
    ),
    "a storage of a hostile class": (
        lambda data: data.replace(b"ctorch\nFloatStorage", b"cposix\nsystem"),
        denied("asks for posix.system"),
    ),
    "another version": (
        lambda data: data.replace(b"M\xe9\x03", b"M\xe8\x03", 1),
        broken("a storage is not of torch's legacy format"),
    ),
    "numbers of another machine": (
        lambda data: data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        broken("a storage is not of torch's legacy format"),
    ),
}


@pytest.mark.parametrize("case", LEGACY)
def test_a_file_of_the_older_format_that_is_not_as_it_says_is_refused(case: str, tmp_path: Path) -> None:
    change, message = LEGACY[case]
    data = saved(VALUE, old=True)
    assert refusal(data, tmp_path) is None
    assert change(data) != data
    assert refusal(change(data), tmp_path) == message


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_is_cut_off_is_refused(old: bool, tmp_path: Path) -> None:
    data = saved(VALUE, old)
    for length in range(1, len(data), 7):
        assert refusal(data[:length], tmp_path) is not None, length


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_file_is_refused_or_read_but_never_run(old: bool, tmp_path: Path) -> None:
    data = saved(VALUE, old)
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        refusal(bytes(damaged), tmp_path)


def test_an_archive_of_images_is_no_network(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("0/0.png", b"x")
    message = r"is a zip archive without one data\.pkl, as torch\.save writes it, which no network"
    with pytest.raises(UserError, match=rf"images\.zip: {message}"):
        read_network(tmp_path / "images.zip")
