"""Scenes whose images are known in closed form, and cameras to see them from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distill.networks.scene.cameras import Cameras
from distill.networks.scene.renderer import Field3D, Render, Renderer

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def camera(
    azimuth: float = 0.0, elevation: float = 0.0, distance: float = 3.0, field_of_view: float = 20.0
) -> Cameras:
    """Return one camera in float64; angles are in degrees."""
    numbers = (math.radians(azimuth), math.radians(elevation), distance, math.radians(field_of_view))
    return Cameras.from_rows(torch.tensor([numbers], dtype=torch.float64))


def field_of(
    density: Callable[[Tensor], Tensor], colour: Callable[[Tensor], Tensor] | None = None
) -> Field3D:
    """Return a field of density and colour, each a function of points (b, n, 3); red without a colour."""

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        if colour is None:
            return density(points), points.new_tensor(RED).expand_as(points)
        return density(points), colour(points)

    return field


def fog(density: float) -> Field3D:
    """Return a red cube from -1 to 1 of constant density."""
    return field_of(lambda points: torch.full_like(points[..., 0], density))


def blob(peak: float | Tensor, width: float | Tensor, centre: Tensor | None = None) -> Field3D:
    """Return a red isotropic Gaussian of density."""

    def density(points: Tensor) -> Tensor:
        offset = points if centre is None else points - centre
        return peak * (-offset.square().sum(-1) / (2 * width**2)).exp()

    return field_of(density)


def ball(radius: float, peak: float = 1000.0, softness: float = 0.01) -> Field3D:
    """Return a red ball whose density falls from `peak` to zero across its surface."""
    return field_of(lambda points: peak * ((radius - points.norm(dim=-1)) / softness).sigmoid())


def render(field: Field3D, cameras: Cameras, size: int = 5, samples: int = 64, **options: object) -> Render:
    """Render square images over black."""
    background = torch.zeros(len(cameras.azimuth), 3, dtype=torch.float64)
    return Renderer(samples).render(field, cameras, (size, size), background, **options)  # type: ignore[arg-type]
