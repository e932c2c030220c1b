"""Small scenes whose shape and colours are known: balls."""

from __future__ import annotations

import torch

from distill.networks.scene.cameras import Ring
from distill.networks.scene.scene import SceneGenerator
from distill.networks.scene.sizes import SceneSizes

RADII = (0.6, 0.4)
"""Radius of the ball of each particle."""
STEEPNESS = 2000.0
"""Density at the centre of a ball, which falls linearly to zero at its radius, so that edges are hard."""
CAMERAS = Ring(count=8, elevations=(0.0,), distance=3.0, field_of_view=50.0)


def ball_scene(particles: int = 1, channels: int = 3, size: int = 16, samples: int = 64) -> SceneGenerator:
    """Make one or two particles, balls of `RADII`; red grows with x, green with y and blue with z."""
    sizes = SceneSizes(
        particles=particles,
        resolution=16,
        width=0,
        samples=samples,
        blob_density=STEEPNESS,
        blob_radius=RADII[0],
        cameras=CAMERAS,
        grid_rate=1.0,
    )
    scene = SceneGenerator(sizes, (channels, size, size))
    axis = torch.linspace(-1, 1, 16)
    # A grid is read by (z, y, x).
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    colour = torch.stack([x, y, z])[:channels]
    for particle, radius in zip(range(particles), RADII, strict=False):
        # The blob is STEEPNESS (1 - r / RADII[0]), and the grid adds what moves its zero to this radius.
        raw = torch.full_like(x, STEEPNESS * (radius / RADII[0] - 1))
        scene.field.grid.nodes.data[particle] = torch.cat([raw[None], 3 * colour])
    return scene.eval().requires_grad_(False)
