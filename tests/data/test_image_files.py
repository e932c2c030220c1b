"""Image files as they are found: links, what other programs leave beside them, archives of whole folders, and broken content."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.data.images import decode


def png(level: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (level, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


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


def test_what_other_programs_put_beside_images_is_left_out(tmp_path: Path) -> None:
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
        handle.write(png())
    files = ImageFiles(tmp_path)
    assert os.fsencode(files.stamp(0)).startswith(b"bad\xff.png ")
    assert files.pixels(0).shape == (3, 2, 3)


def test_broken_content_is_a_value_error() -> None:
    start, data = png()[:33], png()[41:46]
    garbled = (
        start + b"\0\0\0\5IDAT" + data + bytes(4) + b"\0\0\0\5\x84\x17\xdd\t" + bytes(20)
    )  # Pillow says SyntaxError of a chunk that has no name
    for content in (garbled, png()[:50], b"", b"GIF89a"):
        with pytest.raises(ValueError, match=r"broken PNG|truncated|of no kind"):
            decode(content)


def test_a_palette_with_transparency_is_its_colours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(
        "P", palette=Image.Palette.ADAPTIVE
    )
    colours.save(tmp_path / "a.png", transparency=bytes(range(30)))
    assert torch.equal(
        decode((tmp_path / "a.png").read_bytes()).permute(1, 2, 0),
        torch.from_numpy(np.array(colours.convert("RGB"))),
    )
