"""Images in archives: those of other systems, hostile names, encrypted and cut ones."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.data.sources.captioned_folder import CaptionedFolder
from distill.data.sources.image_folder import ImageFolder
from tests.helpers.image_files import png, write_files


def test_a_zip_of_windows_has_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("cat\\0.png", "dog\\1.png"):
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            archive.writestr(info, png())
    files = ImageFiles(tmp_path / "x.zip")
    assert (files.names, files.labels) == (["cat/0.png", "dog/1.png"], [0, 1])
    assert files.pixels(1).shape == (3, 4, 4)


def test_names_that_lead_out_of_an_archive_are_only_names(tmp_path: Path) -> None:
    """Nothing is unpacked, so it does not matter where a name leads."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for shade, name in enumerate(("../../a.png", "/b/c.png", "d.png", ".hidden/e.png")):
            archive.writestr(name, png(shade))
    files = ImageFiles(tmp_path / "x.zip")
    assert [int(files.pixels(row)[0, 0, 0]) for row in range(len(files))] == [0, 1, 2]


def write_encrypted(path: Path) -> None:
    """Write a `.zip` with a stored file whose headers say that it is encrypted."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    write_encrypted(tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"a.png: cannot be read as an image \(.*encrypted"):
        ImageFolder(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_cut_at_any_place_is_read_or_named(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"whole.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for row in range(3):
                archive.writestr(f"{row}.png", png(row))
    else:
        with tarfile.open(whole, "w:gz" if kind.endswith("gz") else "w") as archive:
            for row in range(3):
                info = tarfile.TarInfo(f"{row}.png")
                info.size = len(png(row))
                archive.addfile(info, io.BytesIO(png(row)))
    content = whole.read_bytes()
    for share in range(1, 20):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(content[: len(content) * share // 20])
        message = ""
        try:
            folder = ImageFolder(cut)
            for row in range(len(folder)):
                folder[row]
        except UserError as error:
            message = str(error)
        assert "\n" not in message


def test_a_zip_of_a_real_packer_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"cat/0.png": png(), "dog/1.png": png()})
    command = [sys.executable, "-m", "zipfile", "-c", "../x.zip", "cat", "dog"]
    packed = subprocess.run(command, cwd=tmp_path / "in")
    assert packed.returncode == 0
    assert ImageFiles(tmp_path / "x.zip").labels == [0, 1]


def write_shards(folder: Path, count: int, mode: str = "w") -> None:
    """Write webdataset's shards of one image each, with a caption in a JSON file."""
    folder.mkdir()
    for shard in range(count):
        with tarfile.open(folder / f"{shard:05d}.tar", mode) as archive:
            for name, content in (("x.png", png(shard)), ("x.json", b'{"caption": "number %d"}' % shard)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_shards_are_read_without_an_open_file_for_each(tmp_path: Path, mode: str) -> None:
    """A data set has thousands of shards, and a process may open a thousand files."""
    write_shards(tmp_path / "shards", 20, mode)
    opened = Path("/proc/self/fd")  # which only Linux has
    before = len(list(opened.iterdir())) if opened.is_dir() else 0
    data = CaptionedFolder(tmp_path / "shards", 4, "caption")
    after = len(list(opened.iterdir())) if opened.is_dir() else 0
    assert after - before <= (2 if mode == "w" else 22)  # compressed ones stay open
    assert data.captions.texts == [f"number {shard}" for shard in range(20)]
    for row in (0, 7, 19):
        assert torch.allclose(data[row][0][0], torch.full((4, 4), row / 127.5 - 1))


def test_captions_in_json_are_named_where_they_are_wrong(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": png(0), "a.json": b'{"captoin": "a cat"}'})
    with pytest.raises(
        UserError, match=r"a.json: expected a JSON object with 'caption'; did you mean 'captoin'"
    ):
        CaptionedFolder(tmp_path, 4, "caption")
    (tmp_path / "a.json").write_text('{"caption": 3}')
    with pytest.raises(UserError, match=r"a.json: 'caption' is 3; expected a caption"):
        CaptionedFolder(tmp_path, 4, "caption")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a.json: is not JSON"):
        CaptionedFolder(tmp_path, 4, "caption")
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match=r"a.png: has no caption; expected a.json beside it"):
        CaptionedFolder(tmp_path, 4, "caption")
