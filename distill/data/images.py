"""Images as files and grids: the one place where [-1, 1] becomes bytes."""

from __future__ import annotations

import io
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.files import new_file

LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF", "GIF": "GIF"}
"""Pillow's formats whose compression, or whose 256 colours, change pixels or may, and their names."""
GREY = {"1", "L", "LA", "La"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of one channel, and of more than a byte for each."""
SIXTEEN_BITS = re.compile(r";16[BLN]")
"""In what Pillow calls the pixels of a file that it has not decoded yet."""


def decode(content: bytes, mode: str | None = None, upright: bool = True) -> UInt8[Tensor, "c h w"]:
    """An image file's pixels, in Pillow's `mode`, or of one channel where the file is grey and else of three.

    Raises ValueError where it is no image, or of more than a byte for each channel.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return pixels_of(image, mode, upright)
    except UnidentifiedImageError as error:
        raise ValueError("of no kind that Pillow knows") from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:  # the second is what Pillow says of broken chunks of a PNG
        raise ValueError(str(error)) from error


def pixels_of(image: Image.Image, mode: str | None = None, upright: bool = True) -> UInt8[Tensor, "c h w"]:
    """The pixels of an opened image, of one channel where it is grey and else of three, or in Pillow's `mode`.

    They are turned as the image's EXIF orientation says unless `upright` is false. Of a moving image the first frame counts; transparency is left
    out. Raises ValueError where a channel has more than a byte.
    """
    if _is_deep(image):
        more = "" if image.mode in DEEP else ", of more than 8"
        raise ValueError(f"mode {image.mode}{more}; expected 8 bits a channel")
    turned = ImageOps.exif_transpose(image) if upright else image
    turned.info.pop("transparency", None)  # it is left out, and Pillow would warn of a palette that has it
    pixels = np.asarray(turned.convert(mode or ("L" if image.mode in GREY else "RGB")))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel has more than a byte; of colours only the file tells, before it is decoded, after which the upper byte of each is left."""
    parts = [(tile[0], tile[3]) for tile in getattr(image, "tile", ())]
    scaled = any(
        kind == "ppm" and isinstance(how, tuple) and isinstance(how[-1], int) and how[-1] > 255
        for kind, how in parts
    )
    return image.mode in DEEP or scaled or any(SIXTEEN_BITS.search(str(how)) for _, how in parts)


def check_images(images: Tensor, origin: str) -> None:
    """Raises UserError, naming `origin`, where a value of an image is not finite: a byte could not tell, and shows it black."""
    broken = ~images.isfinite().flatten(1).all(1)
    if broken.any():
        first = int(broken.int().argmax())
        raise UserError(
            f"{origin}: {int(broken.sum())} of {len(images)} images have values that are not finite, first image {first}"
        )


def lossy_format(content: bytes) -> str | None:
    """The name of the compression that changed an image file's pixels; None of a lossless file, or of one that Pillow cannot open."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "WEBP":
                return "WebP" if b"VP8 " in _chunks(content) else None
            if image.format == "TIFF":
                return "JPEG in TIFF" if "jpeg" in str(image.info.get("compression")) else None
            return LOSSY.get(image.format or "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _chunks(content: bytes) -> list[bytes]:
    """The names of the chunks of a RIFF file."""
    names, place = [], 12
    while place + 8 <= len(content):
        names.append(content[place : place + 4])
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return names


def to_levels(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The level 0..255 nearest to each value of [-1, 1]: (x * 127.5 + 128) clipped and truncated, as EDM does. What is no number stays none."""
    return (images * 127.5 + 128).clip(0, 255).floor()


def to_bytes(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantise [-1, 1] to 0..255, rounding to the nearest level."""
    return to_levels(images).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The centre of each level in [-1, 1]: inverse of `to_bytes` up to quantisation."""
    return pixels.float() / 127.5 - 1


def to_pil(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One image of one or three channels as a PIL image."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def make_grid(
    pixels: UInt8[Tensor, "b c h w"], columns: int | None = None, scale: int = 1, gap: int = 1
) -> Image.Image:
    """Lay images out row by row, `scale` times enlarged without smoothing, `gap` white pixels (before scaling) between them."""
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, dtype=np.uint8
    )
    for index, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return to_pil(torch.from_numpy(canvas.repeat(scale, 0).repeat(scale, 1)).permute(2, 0, 1))


def preview_count(image_shape: tuple[int, ...]) -> int:
    """Samples that a picture shows at a glance: points more than images, and those the fewer the larger they are."""
    return max(4, min(100, 2**22 // (image_shape[1] * image_shape[2]))) if len(image_shape) == 3 else 2000


def save_samples_picture(samples: Float[Tensor, "b ..."], path: Path, columns: int | None = None) -> None:
    """Write samples as a picture to look at: images as a grid, vectors as points of their first two elements."""
    if samples.ndim == 4:
        save_grid(to_bytes(samples), path, columns)
    else:
        with new_file(path) as partial:
            scatter(samples).save(partial, format="PNG")


def scatter(points: Float[Tensor, "n d"], reach: float = 6.0, size: int = 512) -> Image.Image:
    """Points in [-reach, reach]^2, darker where there are more; a vector of one element is drawn on the line y = 0."""
    first, second = (
        points[:, 0].double().numpy(),
        (points[:, 1] if points.shape[1] > 1 else torch.zeros(len(points))).double().numpy(),
    )
    counts, _, _ = np.histogram2d(-second, first, bins=size // 2, range=[[-reach, reach]] * 2)
    shade = (255 * np.exp(-1.5 * counts)).astype(np.uint8)
    return Image.fromarray(shade.repeat(2, 0).repeat(2, 1))


def save_grid(pixels: UInt8[Tensor, "b c h w"], path: Path, columns: int | None = None) -> None:
    """Write a grid as PNG, small images enlarged so that a face of at least 32 pixels is seen."""
    with new_file(path) as partial:
        make_grid(pixels, columns, scale=max(1, 32 // pixels.shape[-1])).save(partial, format="PNG")
