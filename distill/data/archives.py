"""Files by their names, wherever they lie: in a folder, in a `.zip`, in a `.tar`, or in a folder of `.tar` files such as webdataset's shards.

Of files of one name in an archive the last counts, as archivers have it.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from distill.config.errors import UserError


@runtime_checkable
class Files(Protocol):
    """Names of files, each with what changes when its content does; and their content."""

    def stamps(self) -> dict[str, str]: ...
    def read(self, name: str) -> bytes: ...


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """The files in a folder or an archive. Raises UserError where it is neither, or cannot be read."""
    try:
        if path.is_dir():
            tapes = sorted(path.glob("*.tar"))
            with _open_tapes(tapes) if tapes else contextlib.nullcontext(Folder(path)) as files:
                yield files
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield Zip(archive)
        else:
            with _open_tapes([path]) as files:
                yield files
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: is a broken .zip ({error})") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        if path.suffix in (".zip", ".tar", ".gz", ".tgz"):
            raise UserError(f"{path}: is a broken or cut archive ({str(error).splitlines()[0]})") from error
        raise UserError(f"{path}: is neither a folder nor a .zip nor a .tar") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a folder, a .zip or a .tar"
        ) from error


@contextmanager
def _open_tapes(paths: list[Path]) -> Iterator[Files]:
    with contextlib.ExitStack() as stack:
        yield TarShards({path: stack.enter_context(tarfile.open(path)) for path in paths})


class Folder:
    """The files of a folder and of those in it, of links to folders too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> dict[str, str]:
        """Size and time of change. Raises UserError where a folder cannot be read."""
        try:
            return {file.relative_to(self.path).as_posix(): _stamp(file) for file in _walk(self.path)}
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class Zip:
    """The files of a `.zip`; of the names that Windows wrote, backslashes separate folders."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.entries = {
            plain_name(entry.filename): entry
            for entry in archive.infolist()
            if not entry.filename.endswith(("/", "\\"))
        }

    def stamps(self) -> dict[str, str]:
        """Size and check sum."""
        return {name: f"{entry.file_size} {entry.CRC}" for name, entry in self.entries.items()}

    def read(self, name: str) -> bytes:
        return self.archive.read(self.entries[name])


class TarShards:
    """One `.tar` or more; of more, a name begins with the archive's and a colon."""

    def __init__(self, tapes: dict[Path, tarfile.TarFile]) -> None:
        self.members = {
            f"{path.name}:" * (len(tapes) > 1) + plain_name(entry.name): (path, tape, entry)
            for path, tape in tapes.items()
            for entry in tape.getmembers()
            if entry.isfile()
        }

    def stamps(self) -> dict[str, str]:
        """Place and size, and the archive's size and time of change."""
        return {
            name: f"{entry.offset_data} {entry.size} {_stamp(path)}"
            for name, (path, _, entry) in self.members.items()
        }

    def read(self, name: str) -> bytes:
        _, tape, entry = self.members[name]
        handle = tape.extractfile(entry)
        return b"" if handle is None else handle.read()


def plain_name(name: str) -> str:
    """A file's name as archives and lists of files have it, with slashes and without a leading `./`."""
    return name.replace("\\", "/").removeprefix("./")


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
"""What reading a member of a broken, cut or encrypted archive raises."""
UNREADABLE_ARRAYS = (*UNREADABLE, MemoryError, SyntaxError, tokenize.TokenError)
"""What `numpy.load` raises of a broken file."""


def read_member(files: Files, name: str, path: Path, complaint: str = "cannot be read") -> bytes:
    """The content of a file. Raises UserError, with this complaint, where it, or the archive that it is in, is broken or encrypted."""
    try:
        return files.read(name)
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path / name}: {complaint} ({reason})") from error


def _walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files below a folder; a link that leads back to a folder on the way to it is not followed."""
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
    """Of a link to nowhere, what the link itself is: who wants its content is told that it has none."""
    stat = file.stat() if file.exists() else file.lstat()
    return f"{stat.st_size} {stat.st_mtime_ns}"
