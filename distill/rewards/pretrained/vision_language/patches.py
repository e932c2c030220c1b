"""Qwen-VL's preprocessing of images: a size that keeps the proportions, Pillow's resizing, and flat patches.

The result equals transformers' `Qwen2VLImageProcessorPil` without a gradient, and is differentiable with one,
as `Preprocessing` says.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.rewards.pretrained.preprocessing import (
    CLIP_DEVIATION,
    CLIP_MEAN,
    Filter,
    Preprocessing,
    open_processor,
    resizes_and_rescales,
)
from distill.rewards.pretrained.preprocessing import FILTERS as FILTERS_BY_NUMBER

PROCESSORS = ("Qwen2VLImageProcessor",)
"""The image processor of Qwen2-VL, which Qwen2.5-VL and Qwen3-VL share."""
MAX_RATIO = 200
"""Largest ratio of the edges of an image."""


@dataclasses.dataclass(frozen=True)
class Patches:
    """Resizes images and cuts them into square patches of `patch` pixels.

    An image gets a height and a width that are multiples of `patch` times `merge`, with `min_pixels` to
    `max_pixels` pixels. Patches of a block of `merge` x `merge` follow one another, because the network makes
    one token of them. A still image is a film of `frames` equal frames.
    """

    min_pixels: int
    max_pixels: int
    patch: int = 14
    merge: int = 2
    frames: int = 2
    filter: Filter = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    deviation: tuple[float, ...] = CLIP_DEVIATION

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Return the n patches of each image, d = 3 * frames * patch * patch numbers each."""
        size = self.size(*images.shape[2:])
        resize = Preprocessing(size, size, filter=self.filter, mean=self.mean, deviation=self.deviation)
        rows, columns = (length // (self.patch * self.merge) for length in size)
        blocks = resize(images).reshape(-1, 3, rows, self.merge, self.patch, columns, self.merge, self.patch)
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        return patches.expand(*patches.shape[:6], self.frames, -1, -1).flatten(5).flatten(1, 4)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and the width that an image is resized to, as Qwen's `smart_resize`."""
        if max(height, width) > MAX_RATIO * min(height, width):
            raise UserError(
                f"rewards: an image of {width}x{height}; expected edges of a ratio up to {MAX_RATIO}"
            )
        unit = self.patch * self.merge
        rounded = (round(height / unit) * unit, round(width / unit) * unit)
        # The order of the operations decides which side of a whole number a quotient falls on.
        if math.prod(rounded) > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            smaller = [math.floor(length / shrink / unit) * unit for length in (height, width)]
            return max(unit, smaller[0]), max(unit, smaller[1])
        if math.prod(rounded) < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            return math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
        return rounded

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the numbers of frames, rows and columns of patches; equal frames count as one."""
        rows, columns = (length // self.patch for length in self.size(height, width))
        return 1, rows, columns

    def count_tokens(self, height: int, width: int) -> int:
        """Return the number of tokens that an image becomes."""
        return math.prod(self.grid(height, width)) // self.merge**2


def read_patches(source: str, flag: str) -> Patches:
    """Read the preprocessing of a published Qwen-VL. `source` is a folder or a name on the hub."""
    processor, _ = open_processor(source, flag, PROCESSORS)
    if not resizes_and_rescales(processor) or not processor.do_normalize:
        raise UserError(
            f"{flag}: the image processor of {source} is expected to resize by Pillow's bicubic or bilinear "
            "filter, rescale by 1/255 and normalise"
        )
    return Patches(
        processor.size["shortest_edge"],
        processor.size["longest_edge"],
        processor.patch_size,
        processor.merge_size,
        processor.temporal_patch_size,
        FILTERS_BY_NUMBER[int(processor.resample)],
        tuple(processor.image_mean),
        tuple(processor.image_std),
    )


def grid_tensor(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return a grid as transformers' networks take it: (1, 3)."""
    return torch.tensor([grid], device=device)
