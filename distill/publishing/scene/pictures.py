"""One view of a scene as bytes: its colours, its depth and its normals."""

from __future__ import annotations

import math

from jaxtyping import UInt8
from torch import Tensor

from distill.data.images import to_bytes
from distill.networks.scene.renderer import Render

SEEN = 0.5
"""Opacity from which on a pixel shows the scene and has a depth."""


def draw_colour(view: Render) -> UInt8[Tensor, "c h w"]:
    """Draw the colours over the background."""
    return to_bytes(2 * view.colour.cpu() - 1)[0]


def depth_range(distance: float) -> tuple[float, float]:
    """Return the depths of white and of black pixels at a camera's distance from the centre.

    They bound the cube from every side, so that pictures of all views have one scale.
    """
    return max(0.0, distance - math.sqrt(3)), distance + math.sqrt(3)


def draw_depth(view: Render, near: float, far: float) -> UInt8[Tensor, "1 h w"]:
    """Draw the depth in grey, from white at `near` to black at `far`, and black where nothing is."""
    nearness = ((far - view.depth) / (far - near)).clamp(0, 1)
    return to_bytes((2 * nearness.masked_fill(view.opacity < SEEN, 0.0) - 1).cpu())[0]


def draw_normals(view: Render) -> UInt8[Tensor, "3 h w"]:
    """Draw the normals n as colours (n + 1) / 2: red to the right, green upwards, blue to the camera."""
    return to_bytes(view.normals.cpu())[0]
