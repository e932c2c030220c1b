"""Decode image files, convert between [-1, 1] and bytes, and write grids. No other file converts to bytes."""

from __future__ import annotations

import io
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from distill.config.errors import UserError
from distill.data.class_grid import ClassGrid
from distill.storage.files import new_file

LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF", "GIF": "GIF"}
"""Pillow's formats whose compression or limit of 256 colours may change pixels, and their names."""
GREY = {"1", "L", "LA", "La"}
"""Pillow's modes of one channel, with or without transparency."""
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of more than a byte a channel."""
SIXTEEN_BITS = re.compile(r";16[BLN]")
"""Part of Pillow's name for the 16-bit pixels of a file that is not decoded yet."""

UNDECODABLE = (OSError, SyntaxError, EOFError, struct.error, OverflowError, Image.DecompressionBombError)
"""Errors of Pillow on a broken file. It raises SyntaxError for broken chunks of a PNG."""


def decode(content: bytes, mode: str | None = None, upright: bool = True) -> UInt8[Tensor, "c h w"]:
    """Decode an image file; see `pixels_of`. A file that is no such image raises ValueError."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return pixels_of(image, mode, upright)
    except UnidentifiedImageError as error:
        raise ValueError("of no kind that Pillow knows") from error
    except UNDECODABLE as error:
        raise ValueError(str(error)) from error


def pixels_of(image: Image.Image, mode: str | None = None, upright: bool = True) -> UInt8[Tensor, "c h w"]:
    """Return the pixels of an opened image in Pillow's `mode`; by default `L` if it is grey, else `RGB`.

    The image is turned by its EXIF orientation unless `upright` is false. Only the first frame of an
    animation is read, and transparency is dropped. An image with more than a byte a channel raises
    ValueError.
    """
    if _is_deep(image):
        more = "" if image.mode in DEEP else ", of more than 8"
        raise ValueError(f"mode {image.mode}{more}; expected 8 bits a channel")
    turned = ImageOps.exif_transpose(image) if upright else image
    turned.info.pop("transparency", None)  # Pillow would warn about a transparent palette
    pixels = np.asarray(turned.convert(mode or ("L" if image.mode in GREY else "RGB")))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


def _is_deep(image: Image.Image) -> bool:
    """Return True if a channel has more than a byte.

    Pillow decodes colours of 16 bits to their upper bytes, so that only the undecoded file tells.
    """
    if image.mode in DEEP:
        return True
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return any(_is_deep_tile(tile[0], tile[3]) for tile in tiles)


def _is_deep_tile(decoder: str, arguments: object) -> bool:
    if SIXTEEN_BITS.search(str(arguments)):
        return True
    if decoder != "ppm" or not isinstance(arguments, tuple):
        return False
    maximum = arguments[-1]  # the value of full brightness in a PPM file
    return isinstance(maximum, int) and maximum > 255


def check_images(images: Tensor, origin: str) -> None:
    """Check that all values of images are finite, since a byte would show others as black."""
    broken = ~images.isfinite().flatten(1).all(1)
    if broken.any():
        count = f"{int(broken.sum())} of {len(images)} images"
        first = int(broken.int().argmax())
        raise UserError(f"{origin}: {count} have values that are not finite, first image {first}")


def lossy_format(content: bytes) -> str | None:
    """Return the name of the compression that changed a file's pixels.

    Return None for a lossless file and for one that Pillow cannot open.
    """
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
    """Return the names of the chunks of a RIFF file."""
    names = []
    start = 12
    while start + 8 <= len(content):
        names.append(content[start : start + 4])
        length = int.from_bytes(content[start + 4 : start + 8], "little")
        start += 8 + length + length % 2
    return names


def to_levels(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Round values in [-1, 1] to levels 0..255: (x * 127.5 + 128) clipped and truncated, as in EDM.

    NaN stays NaN.
    """
    return (images * 127.5 + 128).clip(0, 255).floor()


def to_bytes(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantise values in [-1, 1] to bytes, rounding to the nearest level."""
    return to_levels(images).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the centre of each level in [-1, 1], the inverse of `to_bytes` up to quantisation."""
    return pixels.float() / 127.5 - 1


def to_pil(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Convert an image of one or three channels to a PIL image."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def central_square(pixels: UInt8[Tensor, "c h w"], side: int) -> Float[Tensor, "c side side"]:
    """Scale the central square of an image in bytes to side x side pixels, and convert it to [-1, 1]."""
    image = to_pil(pixels)
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    cropped = image.crop((left, top, left + square, top + square))
    scaled = np.array(cropped.resize((side, side), Image.Resampling.LANCZOS)).reshape(side, side, -1)
    return from_bytes(torch.from_numpy(scaled)[None].permute(0, 3, 1, 2))[0]


def make_grid(
    pixels: UInt8[Tensor, "b c h w"], columns: int | None = None, scale: int = 1, gap: int = 1
) -> Image.Image:
    """Lay images out row by row with `gap` white pixels between them, then enlarge all by `scale`,
    unsmoothed.

    The default number of columns makes the grid as square as possible.
    """
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
    """Return how many samples a preview shows: 2000 points, or 4 to 100 images, fewer if they are large."""
    if len(image_shape) != 3:
        return 2000
    return max(4, min(100, 2**22 // (image_shape[1] * image_shape[2])))


def save_samples_picture(samples: Float[Tensor, "b ..."], path: Path, condition_count: int = 0) -> None:
    """Write a preview of samples: images as a grid, vectors as points of their first two elements.

    Sample i has the condition i % `condition_count`; 0 stands for samples without conditions.
    """
    if samples.ndim == 4:
        save_class_grid(to_bytes(samples), path, condition_count)
    else:
        with new_file(path) as partial:
            scatter(samples).save(partial, format="PNG")


def scatter(points: Float[Tensor, "n d"], reach: float = 6.0, size: int = 512) -> Image.Image:
    """Draw points in [-reach, reach]^2, darker where there are more.

    Vectors of one element are drawn on the line y = 0.
    """
    x = points[:, 0].double().numpy()
    y = points[:, 1].double().numpy() if points.shape[1] > 1 else np.zeros(len(points))
    counts, _, _ = np.histogram2d(-y, x, bins=size // 2, range=[[-reach, reach]] * 2)
    shade = (255 * np.exp(-1.5 * counts)).astype(np.uint8)
    return Image.fromarray(shade.repeat(2, 0).repeat(2, 1))


def save_grid(pixels: UInt8[Tensor, "b c h w"], path: Path, columns: int | None = None) -> None:
    """Write a grid as PNG; images of up to 16 pixels are enlarged by a whole factor to at most 32."""
    with new_file(path) as partial:
        make_grid(pixels, columns, scale=max(1, 32 // pixels.shape[-1])).save(partial, format="PNG")


def save_class_grid(pixels: UInt8[Tensor, "b c h w"], path: Path, label_count: int) -> None:
    """Write a grid as PNG in which images of one label stand together; image i has i % `label_count`."""
    grid = ClassGrid(label_count, len(pixels))
    save_grid(grid.arrange(pixels, blank=255), path, grid.columns)
