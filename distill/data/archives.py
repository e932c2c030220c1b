"""Read files by name, alike from a folder, a `.zip`, a `.tar`, or a folder of `.tar` files such as
webdataset's.

If an archive holds several files of one name, the last counts, as in archivers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tarfile
import tokenize
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from distill.config.errors import UserError, first_line
from distill.config.text_files import decode_text

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    tarfile.TarError,
)
"""Errors of reading a file in a broken, cut or encrypted archive."""
UNREADABLE_ARRAYS = (*UNREADABLE, MemoryError, SyntaxError, tokenize.TokenError)
"""Errors of `numpy.load` on a broken file."""


@runtime_checkable
class Files(Protocol):
    """Open files by name. A file's stamp is a text that changes when its content does."""

    def stamps(self) -> dict[str, str]: ...
    def read(self, name: str) -> bytes: ...


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """Open the files in a folder or an archive."""
    try:
        if path.is_dir():
            shards = sorted(path.glob("*.tar"))
            with _open_shards(shards) if shards else contextlib.nullcontext(Folder(path)) as files:
                yield files
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield Zip(archive)
        else:
            with _open_shards([path]) as files:
                yield files
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: is a broken .zip ({error})") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        if path.suffix in (".zip", ".tar", ".gz", ".tgz"):
            raise UserError(f"{path}: is a broken or cut archive ({first_line(error)})") from error
        raise UserError(f"{path}: is neither a folder nor a .zip nor a .tar") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a folder, a .zip or a .tar"
        ) from error


@contextmanager
def _open_shards(paths: list[Path]) -> Iterator[Files]:
    """List the files in `.tar` files. Compressed ones stay open; of others there may be thousands."""
    with contextlib.ExitStack() as stack:
        yield TarShards([_list_shard(path, stack) for path in paths])


def _list_shard(path: Path, stack: contextlib.ExitStack) -> Shard:
    try:
        with tarfile.open(path, "r:") as archive:
            return Shard(path, [entry for entry in archive.getmembers() if entry.isfile()])
    except tarfile.ReadError:  # compressed, or broken
        archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115
        return Shard(path, [entry for entry in archive.getmembers() if entry.isfile()], archive)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The files in a `.tar`, which is open if it is compressed."""

    path: Path
    entries: list[tarfile.TarInfo]
    archive: tarfile.TarFile | None = None

    def read(self, entry: tarfile.TarInfo) -> bytes:
        if self.archive is None and not entry.issparse():
            with self.path.open("rb") as handle:
                handle.seek(entry.offset_data)
                content = handle.read(entry.size)
            if len(content) < entry.size:
                raise EOFError("the archive ends within it")
            return content
        with (
            contextlib.nullcontext(self.archive) if self.archive else tarfile.open(self.path, "r:") as archive
        ):
            member = archive.extractfile(entry)
            return b"" if member is None else member.read()


class Folder:
    """The files in a folder and in those below it. Links to folders are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> dict[str, str]:
        """Return each file's size and time of change by its name."""
        try:
            return {file.relative_to(self.path).as_posix(): _stamp(file) for file in _walk(self.path)}
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class Zip:
    """The files in a `.zip`. Backslashes in names, which Windows writes, separate folders."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.entries = {
            plain_name(entry.filename): entry
            for entry in archive.infolist()
            if not entry.filename.endswith(("/", "\\"))
        }

    def stamps(self) -> dict[str, str]:
        """Return each file's size and checksum by its name."""
        return {name: f"{entry.file_size} {entry.CRC}" for name, entry in self.entries.items()}

    def read(self, name: str) -> bytes:
        return self.archive.read(self.entries[name])


class TarShards:
    """The files in one or more `.tar` files. If there are several, a name begins with `ARCHIVE:`."""

    def __init__(self, shards: list[Shard]) -> None:
        self.members: dict[str, tuple[Shard, tarfile.TarInfo]] = {}
        for shard in shards:
            prefix = f"{shard.path.name}:" if len(shards) > 1 else ""
            for entry in shard.entries:
                self.members[prefix + plain_name(entry.name)] = (shard, entry)

    def stamps(self) -> dict[str, str]:
        """Return each file's offset and size, and its archive's size and time of change, by its name."""
        return {
            name: f"{entry.offset_data} {entry.size} {_stamp(shard.path)}"
            for name, (shard, entry) in self.members.items()
        }

    def read(self, name: str) -> bytes:
        shard, entry = self.members[name]
        return shard.read(entry)


class NamedFiles:
    """The files in a folder or an archive, which each process opens for itself when it first reads one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, Files] | None = None
        self.names = frozenset(self._files().stamps())

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, name: str, complaint: str = "cannot be read") -> bytes:
        """Return a file's content; a message about a file that cannot be read contains `complaint`."""
        return read_member(self._files(), name, self.path, complaint)

    def read_text(self, name: str) -> str:
        """Return the text of a UTF-8 file."""
        return decode_text(self.read(name), str(self.path / name))

    def find_above(self, folder: str, name: str) -> str | None:
        """Return the outermost of a folder and those above it that holds a file of this name, or None.

        Folders are written as names begin: `photos/2024/`, or nothing for the outermost.
        """
        parent = ""
        for part in folder.split("/"):
            if f"{parent}{name}" in self.names:
                return parent
            parent = f"{parent}{part}/"
        return None

    def _files(self) -> Files:
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:  # a forked process must not share a handle
            stack = contextlib.ExitStack()
            self._opened = process, stack.enter_context(open_files(self.path))
            weakref.finalize(self, stack.close)
        return self._opened[1]


def plain_name(name: str) -> str:
    """Return a file's name in an archive or a list with slashes and without a leading `./`."""
    return name.replace("\\", "/").removeprefix("./")


def read_member(files: Files, name: str, path: Path, complaint: str = "cannot be read") -> bytes:
    """Return a file's content; a message about a broken or encrypted file contains `complaint`."""
    try:
        return files.read(name)
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{path / name}: {complaint} ({reason or error})") from error


def _walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield all files below a folder, without following links back to a folder on the way."""
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), above | {real})
            elif entry.is_file() or entry.is_symlink():
                yield Path(entry.path)


def _stamp(file: Path) -> str:
    """Return a file's size and time of change; those of the link itself for a link to nowhere."""
    stat = file.stat() if file.exists() else file.lstat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
