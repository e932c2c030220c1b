"""Coloured scenes of spheres, boxes, cylinders and cones, known in closed form: truth for experiments."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from distill.networks.scene.renderer import Field3D

Point = tuple[float, float, float]
DENSITY = 60.0
"""Density inside the solids, per unit of length: a solid 0.1 thick lets 0.2 % of the light through."""
SOFTNESS = 0.02
"""Width of the surfaces, over which the density falls, in units of the scene."""


class Solid(NamedTuple):
    """One solid in the cube from -1 to 1, upright along y."""

    shape: Literal["sphere", "box", "cylinder", "cone"]
    centre: Point
    size: Point
    """Half extents; a sphere's radius is the first, and so is that of a cylinder and of a cone's base."""
    colour: Point
    """Red, green and blue in [0, 1]."""


SCENES: dict[str, tuple[Solid, ...]] = {
    "snowman": (
        Solid("sphere", (0, -0.4, 0), (0.4, 0, 0), (0.95, 0.95, 1.0)),
        Solid("sphere", (0, 0.15, 0), (0.28, 0, 0), (0.95, 0.95, 1.0)),
        Solid("cylinder", (0, 0.5, 0), (0.2, 0.16, 0.2), (0.1, 0.1, 0.15)),
        Solid("box", (0, 0.15, 0.32), (0.06, 0.05, 0.14), (1.0, 0.45, 0.0)),
        Solid("box", (0, -0.05, 0), (0.3, 0.05, 0.3), (0.85, 0.1, 0.1)),
    ),
    "house": (
        Solid("box", (0, -0.35, 0), (0.5, 0.35, 0.4), (0.85, 0.65, 0.35)),
        Solid("cone", (0, 0.3, 0), (0.75, 0.3, 0.75), (0.7, 0.15, 0.1)),
        Solid("box", (0, -0.45, 0.41), (0.12, 0.25, 0.03), (0.3, 0.15, 0.05)),
        Solid("box", (0.35, 0.35, -0.1), (0.08, 0.25, 0.08), (0.4, 0.4, 0.45)),
    ),
    "tree": (
        Solid("cylinder", (0, -0.5, 0), (0.12, 0.3, 0.12), (0.45, 0.25, 0.1)),
        Solid("cone", (0, -0.05, 0), (0.55, 0.25, 0.55), (0.1, 0.5, 0.15)),
        Solid("cone", (0, 0.35, 0), (0.4, 0.25, 0.4), (0.15, 0.65, 0.2)),
        Solid("sphere", (0.2, 0.0, 0.35), (0.09, 0, 0), (0.9, 0.1, 0.1)),
        Solid("sphere", (0, 0.65, 0), (0.1, 0, 0), (1.0, 0.85, 0.1)),
    ),
    "boat": (
        Solid("box", (0, -0.45, 0), (0.65, 0.15, 0.3), (0.15, 0.3, 0.75)),
        Solid("cylinder", (0, 0.1, 0), (0.05, 0.45, 0.05), (0.4, 0.25, 0.1)),
        Solid("box", (0.25, 0.2, 0), (0.22, 0.3, 0.04), (0.95, 0.85, 0.6)),
        Solid("box", (-0.3, -0.2, 0), (0.18, 0.12, 0.2), (0.8, 0.2, 0.15)),
    ),
}
"""Scenes by name; the front faces positive z."""


def distance_to(solid: Solid, points: Float[Tensor, "... 3"]) -> Tensor:
    """Return a bound on the distance to the surface of a solid, below 0 inside, (...)."""
    centre, size = (torch.tensor(value, dtype=points.dtype, device=points.device) for value in solid[1:3])
    offset = points - centre
    if solid.shape == "sphere":
        return offset.norm(dim=-1) - size[0]
    if solid.shape == "box":
        return (offset.abs() - size).amax(-1)
    across = offset[..., [0, 2]].norm(dim=-1)
    height = offset[..., 1]
    radius = size[0]
    if solid.shape == "cone":  # its radius shrinks from the base to the top
        radius = size[0] * (size[1] - height) / (2 * size[1])
    return torch.maximum(across - radius, height.abs() - size[1])


def solid_field(solids: tuple[Solid, ...]) -> Field3D:
    """Return solids as density and colour of points; where they overlap, the colour of the deepest counts."""

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        depth = torch.stack([-distance_to(solid, points) for solid in solids], -1)
        colours = torch.tensor([solid.colour for solid in solids], dtype=points.dtype, device=points.device)
        density = DENSITY * (depth.amax(-1) / SOFTNESS).sigmoid()
        return density, (depth / SOFTNESS).softmax(-1) @ colours

    return field
