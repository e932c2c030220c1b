"""Decoding images: orientation, modes, depth, transparency and broken content."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data.images import decode, pixels_of
from distill.data.sources.image_folder import ImageFolder
from distill.eval.images.streams import FileImages
from tests.helpers.image_files import write_files


def turned() -> bytes:
    """Make a photo of white above black by a camera held sideways, which stores black left of white."""
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8  # stored turned by a quarter clockwise
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(content, format="PNG", exif=exif)
    return content.getvalue()


def test_every_source_shows_images_upright(tmp_path: Path) -> None:
    expected = torch.tensor([[[255], [0]]], dtype=torch.uint8)
    assert torch.equal(decode(turned()), expected)
    with Image.open(io.BytesIO(turned())) as image:
        assert torch.equal(pixels_of(image), expected)
    assert ImageFolder(write_files(tmp_path, {"a.png": turned()})).image_shape == (3, 2, 1)


def test_a_protocol_ignores_the_orientation_as_clean_fid_does(tmp_path: Path) -> None:
    (image,) = FileImages(write_files(tmp_path, {"a.png": turned()})).read([0])
    assert torch.equal(image, torch.tensor([[[0, 255]]], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, [255]), ("L", 7, [7]), ("P", 0, [0, 0, 0]), ("LA", (7, 0), [7])]
)
def test_modes_of_a_byte_are_read(mode: str, value: object, expected: list[int]) -> None:
    content = io.BytesIO()
    Image.new(mode, (2, 2), value).save(content, format="PNG")
    assert decode(content.getvalue())[:, 0, 0].tolist() == expected


def png_of_16_bits(kind: int, channels: int) -> bytes:
    """Make a grey PNG of 16 bits; `kind` is the number of its colour type."""

    def chunk(name: bytes, content: bytes) -> bytes:
        length = struct.pack(">I", len(content))
        return length + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + b"\x12\x34" * channels * 4 for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_more_than_a_byte_a_channel_is_refused_everywhere(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 30000, dtype=np.uint16))
    with pytest.raises(ValueError, match="mode I;16; expected 8 bits a channel"):
        pixels_of(deep)
    (tmp_path / "deep").mkdir()
    deep.save(tmp_path / "deep" / "a.png")
    for name, content in {
        "rgb.png": png_of_16_bits(2, 3),
        "grey and alpha.png": png_of_16_bits(4, 2),
        "a.ppm": b"P6 2 2 65535\n" + bytes(24),
    }.items():
        with pytest.raises(ValueError, match="of more than 8; expected 8 bits a channel"):
            decode(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read as an image"):
            ImageFolder(write_files(tmp_path / name.split(".")[0], {name: content}))
    assert decode(b"P6 2 2 100\n" + bytes([100]) * 12).flatten().tolist() == [255] * 12
    message = r"a.png: cannot be read as an image \(mode I;16; expected 8 bits a channel\)"
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path / "deep")


@pytest.mark.parametrize("kind", ["tif", "ppm", "pgm", "gif", "bmp", "tga", "webp"])
def test_every_common_kind_of_image_is_read(tmp_path: Path, kind: str) -> None:
    Image.new("L", (3, 2), 77).save(tmp_path / f"a.{kind}")
    image, _ = ImageFolder(tmp_path, grey=True)[0]
    assert image.shape == (1, 2, 3)
    assert image[0, 0, 0].item() == pytest.approx(77 / 127.5 - 1, abs=0.02)


def test_broken_content_is_a_value_error() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 20, 30)).save(buffer, "PNG")
    whole = buffer.getvalue()
    start = whole[:33]
    data = whole[41:46]
    nameless_chunk = b"\0\0\0\5\x84\x17\xdd\t" + bytes(20)  # Pillow raises SyntaxError
    garbled = start + b"\0\0\0\5IDAT" + data + bytes(4) + nameless_chunk
    for content in (garbled, whole[:50], b"", b"GIF89a"):
        with pytest.raises(ValueError, match=r"broken PNG|truncated|of no kind"):
            decode(content)


def test_a_palette_with_transparency_is_its_colours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    colours = image.convert("P", palette=Image.Palette.ADAPTIVE)
    colours.save(tmp_path / "a.png", transparency=bytes(range(30)))
    found = decode((tmp_path / "a.png").read_bytes()).permute(1, 2, 0)
    assert torch.equal(found, torch.from_numpy(np.array(colours.convert("RGB"))))
