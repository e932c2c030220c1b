"""Folders and archives of images: links, files of other programs, odd names, and unreadable images."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from tests.helpers.image_files import png, write_files, write_shards


def save(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or png())
    return path


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "b.png")
    save(tmp_path / "images" / "cat" / "a.png")
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cat" / "up").symlink_to(tmp_path / "images")
    files = ImageFiles(tmp_path / "images")
    assert (files.names, files.labels) == (["cat/a.png", "dog/b.png"], [0, 1])


def test_a_link_to_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    save(tmp_path / "b.png")
    files = ImageFiles(tmp_path)
    assert files.names == ["a.png", "b.png"]
    with pytest.raises(UserError, match=r"a.png: cannot be read as an image \(No such file or directory\)$"):
        files.pixels(0)


def test_files_that_other_programs_put_beside_images_are_skipped(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "dog/b.PNG"):
        save(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "folder.png").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "images").rglob("*")):  # folders too, as zip itself writes them
            archive.write(path, path.relative_to(tmp_path / "images"))
    for source in ("images", "a.zip"):
        files = ImageFiles(tmp_path / source)
        assert (files.names, files.labels) == (["cat/a.png", "dog/b.PNG"], [0, 1])


def test_the_archive_of_a_whole_folder(tmp_path: Path) -> None:
    """`tar -cf a.tar -C images .` begins every name with `./`."""
    for number, name in enumerate(("cat/a.png", "dog/b.png")):
        save(tmp_path / "images" / name, png(number))
    with tarfile.open(tmp_path / "a.tar", "w") as tape:
        tape.add(tmp_path / "images", ".")
    files = ImageFiles(tmp_path / "a.tar")
    assert (files.names, files.labels) == (["cat/a.png", "dog/b.png"], [0, 1])
    assert [int(files.pixels(row)[0, 0, 0]) for row in range(2)] == [0, 1]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff.png"
    with open(path, "wb") as handle:
        handle.write(png(size=(3, 2)))
    files = ImageFiles(tmp_path)
    assert os.fsencode(files.stamp(0)).startswith(b"bad\xff.png ")
    assert files.pixels(0).shape == (3, 2, 3)


@pytest.mark.parametrize("kind", ["heic", "cr3", "ico"])
def test_an_image_that_cannot_be_read_is_not_skipped_silently(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path, {"a.png": png(), f"b.{kind}": b"x"})
    message = rf"b.{kind}: is of a kind that cannot be read; expected it as PNG, or elsewhere"
    with pytest.raises(UserError, match=message):
        ImageFiles(tmp_path)


def test_an_image_beside_archives_is_not_skipped_silently(tmp_path: Path) -> None:
    write_files(write_shards(tmp_path, {"old.tar": ["a.png"]}), {"0.png": png()})
    message = r"0.png: lies beside .tar files; expected images in archives or beside them, not both$"
    with pytest.raises(UserError, match=message):
        ImageFiles(tmp_path)
