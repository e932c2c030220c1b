"""Resizing of images to the size that a feature network takes, as each protocol does it.

The functions take one image, uint8 (c, h, w), and give float32 (c, size, size) in 0..255. Their results
differ by up to ten grey levels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError, did_you_mean


def tensorflow_bilinear(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Resize as `resize_bilinear` of TensorFlow 1 does within the Inception graph of 2015.

    Corners stay at corners, and there is no filter when the image shrinks.
    """
    _, height, width = image.shape
    top, bottom, down = _neighbours(height, size)
    left, right, along = _neighbours(width, size)
    rows = image.float()
    upper, lower = (
        rows[:, row][:, :, left] + (rows[:, row][:, :, right] - rows[:, row][:, :, left]) * along
        for row in (top, bottom)
    )
    return upper + (lower - upper) * down[:, None]


def _neighbours(length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find for each place of the result the pixels before and behind it, and the way between them."""
    place = torch.arange(size, dtype=torch.float32) * (torch.tensor(float(length)) / size)
    before = place.floor().long()
    return before, (before + 1).clamp(max=length - 1), place - before


def pil_bicubic(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Resize as clean-fid does (Parmar et al. 2022).

    Pillow's bicubic filter runs on each channel in floating point; the result is clipped and not rounded.
    """
    channels = [
        Image.fromarray(channel.numpy().astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        for channel in image
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 255)


def pil_bicubic_bytes(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Resize as dgm-eval does: Pillow's bicubic filter, rounded to bytes (Stein et al. 2023)."""
    picture = Image.fromarray(image.permute(1, 2, 0).squeeze(2).contiguous().numpy())
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(resized.reshape(size, size, -1)).permute(2, 0, 1).contiguous()


def torch_bicubic(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Resize as EDM2 does for DINOv2: torch's bicubic filter with antialiasing, not clipped, not rounded."""
    return F.interpolate(image.float()[None], (size, size), mode="bicubic", antialias=True)[0]


def square_pil_bicubic_bytes(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Resize as CMMD's code does: the central square, by Pillow's bicubic filter, rounded to bytes."""
    _, height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pil_bicubic_bytes(image[:, top : top + side, left : left + side], size)


def central_patch(image: UInt8[Tensor, "c h w"], size: int) -> Float32[Tensor, "c s s"]:
    """Cut the central patch out, at the image's own resolution, as torchvision's `center_crop` does."""
    _, height, width = image.shape
    if min(height, width) < size:
        raise UserError(f"is of {height}x{width} pixels; expected at least {size}x{size} for a patch")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[:, top : top + size, left : left + size].float()


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    function.__name__: function
    for function in (
        tensorflow_bilinear,
        pil_bicubic,
        pil_bicubic_bytes,
        torch_bicubic,
        square_pil_bicubic_bytes,
        central_patch,
    )
}


def resize(name: str | None, image: UInt8[Tensor, "c _ _"], size: int) -> Float32[Tensor, "c _ _"]:
    """Resize by the function of this name; None leaves the image as it is."""
    if name is None:
        return image.float()
    if name not in RESIZES:
        raise UserError(f"'{name}' is not in eval/images/resize.py{did_you_mean(name, RESIZES)}")
    return RESIZES[name](image, size)
