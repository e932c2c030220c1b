"""Scenes whose density is known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill.networks.scene.cameras import Ring
from distill.networks.scene.scene import NOISE_NUMBERS, SceneGenerator
from distill.networks.scene.sizes import SceneSizes

FIELD_OF_VIEW = 20.0
"""Angle at which all rays of a camera at distance 3 enter the cube by its front and leave it by its back."""
NODES = 2
"""Nodes of the grid along each side of the cube, between which raw values are linear."""


def plain_scenes(particles: int = 1, size: int = 8, count: int = 1, **sizes: Any) -> SceneGenerator:
    """Make scenes whose nodes are raw density and colours, seen from `count` cameras around the cube."""
    cameras = Ring(count=count, elevations=(0.0,), field_of_view=FIELD_OF_VIEW)
    plain = {"resolution": NODES, "width": 0, "blob_density": 0.0, "samples": 8, "stratified": False}
    generator = SceneGenerator(
        SceneSizes(particles=particles, cameras=cameras, **{**plain, **sizes}), (3, size, size)
    )
    torch.nn.init.zeros_(generator.field.grid.nodes)
    return generator


def set_density(generator: SceneGenerator, particle: int, density: Tensor | float) -> None:
    """Set the density of a scene at its nodes, which are ordered by z, y and x."""
    raw = torch.as_tensor(density, dtype=torch.float32).expm1().log()  # softplus(raw) is the density
    generator.field.grid.nodes.data[particle, 0] = raw / generator.field.grid.rate


def set_colour(generator: SceneGenerator, particle: int, colour: tuple[float, float, float]) -> None:
    """Give the whole of a scene one colour, strictly between 0 and 1."""
    raw = torch.tensor(colour).logit() / generator.field.grid.rate
    generator.field.grid.nodes.data[particle, 1:] = raw[:, None, None, None]


def cosines(size: int) -> Tensor:
    """Return the cosine of the angle between each ray and the axis of its camera, (size * size,)."""
    tangent = math.tan(math.radians(FIELD_OF_VIEW / 2))
    place = tangent * (2 * torch.arange(size) + 1 - size) / size
    return (1 + place[:, None] ** 2 + place**2).rsqrt().flatten()


def opacities(density: float, size: int) -> Tensor:
    """Return 1 - exp(-density L) of the rays through a cube of constant density, with L = 2 / cosine."""
    return 1 - (-density * 2 / cosines(size)).exp()


def noise_of(*particles: int, count: int) -> Tensor:
    """Return noise that chooses these of `count` scenes, and the middle of everything else."""
    z = torch.zeros(len(particles), NOISE_NUMBERS)
    z[:, 0] = torch.special.ndtri((torch.tensor(particles) + 0.5) / count)
    return z
