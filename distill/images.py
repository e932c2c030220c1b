"""Images as files and grids: the one place where [-1, 1] becomes bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_bytes(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantise [-1, 1] to 0..255, rounding to the nearest level: (x * 127.5 + 128) clipped and truncated, as EDM does."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The centre of each level in [-1, 1]: inverse of `to_bytes` up to quantisation."""
    return pixels.float() / 127.5 - 1


def to_pil(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One image of one or three channels as a PIL image."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def make_grid(pixels: UInt8[Tensor, "b c h w"], columns: int | None = None, scale: int = 1, gap: int = 1) -> Image.Image:
    """Lay images out row by row, `scale` times enlarged without smoothing, `gap` white pixels (before scaling) between them."""
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, dtype=np.uint8)
    for index, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return to_pil(torch.from_numpy(canvas.repeat(scale, 0).repeat(scale, 1)).permute(2, 0, 1))


def save_grid(pixels: UInt8[Tensor, "b c h w"], path: Path, columns: int | None = None) -> None:
    """Write a grid as PNG, small images enlarged so that a face of at least 32 pixels is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_grid(pixels, columns, scale=max(1, 32 // pixels.shape[-1])).save(path)
