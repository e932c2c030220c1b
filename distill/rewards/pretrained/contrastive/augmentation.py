"""Random changes of training images, which keep what an image shows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

MAX_NOISE = 0.3
"""Maximum standard deviation of the noise that is added to images in [-1, 1]."""
MAX_SHIFT = 0.12
"""Maximum shift along each axis, as a share of the image's side."""
SCALES = (0.85, 1.2)
"""Minimum and maximum factor of the size."""
COLOUR = 0.08
"""Maximum change of contrast and of brightness, for each channel on its own, in images of [-1, 1]."""
BLURRED = 0.25
"""Share of images that are halved and doubled in size, which blurs them."""


def augment(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Shift, scale, recolour and blur images in [-1, 1], and add noise of random strength to them.

    The noise and the blur make the gradient of a network that is trained on the images useful for imperfect
    images too.
    """
    count, channels = images.shape[:2]
    images = _moved(images)
    blurred = interpolate(
        interpolate(images, scale_factor=0.5, mode="area"), images.shape[2:], mode="bilinear"
    )
    images = torch.where(torch.rand(count, 1, 1, 1) < BLURRED, blurred, images)
    contrast = 1 + COLOUR * (2 * torch.rand(count, channels, 1, 1) - 1)
    brightness = COLOUR * (2 * torch.rand(count, channels, 1, 1) - 1)
    strength = MAX_NOISE * torch.rand(count, 1, 1, 1).square()
    noise = strength * torch.randn_like(images)
    return (contrast * images + brightness + noise).clamp(-1, 1)


def _moved(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Shift and scale each image; the pixels at the edges repeat beyond them."""
    count = len(images)
    low, high = SCALES
    scale = low + (high - low) * torch.rand(count)
    shift = 2 * MAX_SHIFT * (2 * torch.rand(count, 2) - 1)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / scale
    maps[:, :, 2] = shift
    grid = affine_grid(maps, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)
