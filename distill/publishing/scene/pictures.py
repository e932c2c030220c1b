"""One view of a scene as bytes: its colours, its depth and its normals."""

from __future__ import annotations

import math

from jaxtyping import Float, UInt8
from torch import Tensor

from distill.data.images import to_bytes
from distill.networks.scene.renderer import Render

SEEN = 0.5
"""Opacity from which on a pixel shows the scene and has a depth."""
DEPTH_SCALE = 1.25
"""Range of depths from white to black, as a multiple of the range that is seen."""
MIN_RANGE = 1e-3
"""Minimum of the range that is seen, in units of the scene, so that a flat view has a scale."""


def draw_colour(view: Render) -> UInt8[Tensor, "c h w"]:
    """Draw the colours over the background."""
    return to_bytes(2 * view.colour.cpu() - 1)[0]


def seen_depth(view: Render) -> Float[Tensor, "1 h w"]:
    """Return the depth where the view shows the scene, and NaN elsewhere."""
    return view.depth.masked_fill(view.opacity < SEEN, math.nan)[0].cpu()


def depth_range(depths: Float[Tensor, "n 1 h w"]) -> tuple[float, float]:
    """Return the depths of white and of black pixels in the pictures of these depths.

    White is the nearest, and black lies a little beyond the farthest, which stays brighter than where nothing
    is.
    """
    seen = depths[~depths.isnan()]
    if not len(seen):
        return 0.0, 1.0
    nearest, farthest = float(seen.min()), float(seen.max())
    return nearest, nearest + DEPTH_SCALE * max(farthest - nearest, MIN_RANGE)


def draw_depth(depths: Float[Tensor, "n 1 h w"], white: float, black: float) -> UInt8[Tensor, "n 1 h w"]:
    """Draw depths in grey, and black where nothing is."""
    nearness = ((black - depths) / (black - white)).masked_fill(depths.isnan(), 0.0)
    return to_bytes(2 * nearness - 1)


def draw_normals(view: Render) -> UInt8[Tensor, "3 h w"]:
    """Draw the normals n as colours (n + 1) / 2: red to the right, green upwards, blue to the camera."""
    return to_bytes(view.normals.cpu())[0]
