"""Differentiable volume rendering by ray marching, in plain torch and in float32.

A ray collects colour c and density sigma (per unit of length) at points along it, delta apart:
C = sum_i w_i c_i + (1 - sum_i w_i) background, with w_i = T_i (1 - exp(-sigma_i delta_i)) and transmittance
T_i = exp(-sum_{j<i} sigma_j delta_j) (Max 1995; Mildenhall et al. 2020, NeRF, eq. 3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distill.networks.scene.cameras import Cameras

GOLDEN = (math.sqrt(5) - 1) / 2
"""Step of the sequence that shifts the samples of neighbouring rays evenly."""
MIN_OPACITY = 1e-6
"""Opacity below which a depth is not divided by it."""

Field3D = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Density (b, n), per unit of length, and colour (b, n, c) in [0, 1] of a scene at points (b, n, 3)."""


class Render(NamedTuple):
    """Images of b views."""

    colour: Float[Tensor, "b c h w"]
    """In [0, 1], over the background."""
    opacity: Float[Tensor, "b 1 h w"]
    """Share of the light that the scene holds back, in [0, 1]."""
    depth: Float[Tensor, "b 1 h w"]
    """Mean distance from the camera to what is seen, in units of the scene; 0 where nothing is."""
    normals: Float[Tensor, "b 3 h w"]
    """Sum of the unit normals of what is seen, weighted by opacity, in coordinates of the scene; zeros unless
    normals or a light were asked for."""
    facing_away: Float[Tensor, "b 1 h w"]
    """Sum over the points of a ray of w max(0, n . d)^2, for weights w without a gradient, normals n and the
    ray's direction d; zeros unless normals or a light were asked for."""


@dataclasses.dataclass(frozen=True)
class Light:
    """A distant light for each of b views, which shades surfaces by the angle of their normals (Lambert)."""

    direction: Float[Tensor, "b 3"]
    """Unit vector towards the light."""
    share: Float[Tensor, " b"]
    """Share of the colour that the light gives, from 0, no shading, to 1, black where no light falls."""


@dataclasses.dataclass(frozen=True)
class Renderer:
    """Ray marching through the cube from -1 to 1."""

    samples: int = 64
    """Points along each ray, evenly spaced between its entry into the cube and its exit."""
    points_at_once: int = 2**20
    """Maximum number of points that are computed together. Each part is computed again in the backward pass,
    which bounds memory whatever the resolution."""
    normal_step: float = 0.02
    """Distance of the finite differences of the density that give normals, in units of the scene."""

    def render(
        self,
        field: Field3D,
        cameras: Cameras,
        size: Sequence[int],
        background: Tensor,
        shift: Tensor | None = None,
        light: Light | None = None,
        with_normals: bool = False,
    ) -> Render:
        """Render views of a scene at a height and a width in pixels, with the gradient to the scene.

        `background` is a colour for each view, (b, c), in [0, 1]. `shift`, (b,), uniform in [0, 1), moves the
        points of all rays along them by part of their spacing, differently for each pixel, so that training
        sees between the points; None takes the middles.
        """
        height, width = size
        origins, directions = cameras.rays(height, width)
        count = directions.shape[1]
        offset = origins.new_full((len(origins), count), 0.5)
        if shift is not None:
            offset = (shift[:, None] + GOLDEN * torch.arange(count, device=shift.device)) % 1.0
        parts = []
        rays = max(1, self.points_at_once // (len(origins) * self.samples))

        def march(directions: Tensor, offset: Tensor) -> Tensor:
            return self._march(field, origins, directions, offset, light, with_normals)

        with in_float32(origins.device):
            for start in range(0, count, rays):
                part = directions[:, start : start + rays], offset[:, start : start + rays]
                if torch.is_grad_enabled() and rays < count:
                    parts.append(checkpoint(march, *part, use_reentrant=False, preserve_rng_state=False))
                else:
                    parts.append(march(*part))
        image = torch.cat(parts, 1).transpose(1, 2).unflatten(2, (height, width))
        channels = image.shape[1] - 6
        colour, opacity, depth, normals, facing_away = image.split([channels, 1, 1, 3, 1], 1)
        colour = colour + (1 - opacity) * background[:, :, None, None]
        return Render(colour, opacity, depth / opacity.clamp_min(MIN_OPACITY), normals, facing_away)

    def _march(
        self,
        field: Field3D,
        origins: Tensor,
        directions: Tensor,
        offset: Tensor,
        light: Light | None,
        with_normals: bool,
    ) -> Tensor:
        """Return colour, opacity, depth times opacity, normals and `facing_away` of rays, (b, r, c + 6).

        The colour is without background.
        """
        near, far = cube_bounds(origins, directions)
        spacing = ((far - near) / self.samples)[..., None]
        steps = torch.arange(self.samples, device=offset.device) + offset[..., None]
        distance = near[..., None] + spacing * steps
        places = torch.addcmul(origins[:, None, None], distance[..., None], directions[:, :, None])
        points = places.flatten(1, 2)
        density, colour = field(points)
        weights = ray_weights(density.view_as(distance), spacing)

        def weighted(values: Tensor) -> Tensor:
            return (weights[..., None] * values.unflatten(1, distance.shape[1:])).sum(2)

        normals = None
        if with_normals or light is not None:
            normals = self._normals(field, points, density)
        if normals is not None and light is not None:
            lit = (normals @ light.direction[..., None]).clamp_min(0)
            share = light.share[:, None, None]
            colour = colour * (1 - share + share * lit)
        seen = [weighted(colour), weights.sum(2, keepdim=True), (weights * distance).sum(2, keepdim=True)]
        if normals is None:
            return torch.cat([*seen, torch.zeros_like(directions), torch.zeros_like(seen[1])], 2)
        turned = normals.unflatten(1, distance.shape[1:]) * directions[:, :, None]
        facing_away = weights.detach() * turned.sum(3).clamp_min(0).square()
        return torch.cat([*seen, weighted(normals), facing_away.sum(2, keepdim=True)], 2)

    def _normals(self, field: Field3D, points: Tensor, density: Tensor) -> Tensor:
        """Return unit normals, (b, n, 3), against the gradient of the density, by forward differences."""
        slopes = [
            field(points + self.normal_step * axis)[0] - density
            for axis in torch.eye(3, dtype=points.dtype, device=points.device)
        ]
        return -F.normalize(torch.stack(slopes, 2), dim=2, eps=1e-6)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off within a context; on the meta device, also what stands for it in a dry run."""
    if device.type == "meta":
        return torch._C.DisableTorchFunction()
    return torch.autocast(device.type, enabled=False)


def ray_weights(density: Float[Tensor, "... n"], spacing: Tensor) -> Float[Tensor, "... n"]:
    """Return the weight of each of n points along a ray, from the camera on; they sum to the opacity."""
    thickness = density * spacing
    before = F.pad(thickness[..., :-1].cumsum(-1), (1, 0))
    return (-before).exp() * -torch.expm1(-thickness)


def cube_bounds(
    origins: Float[Tensor, "b 3"], directions: Float[Tensor, "b r 3"]
) -> tuple[Float[Tensor, "b r"], Float[Tensor, "b r"]]:
    """Return the distances at which rays enter and leave the cube from -1 to 1; both 0 where they miss it."""
    tiny = torch.finfo(directions.dtype).tiny
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    first, second = (-1 - origins[:, None]) / safe, (1 - origins[:, None]) / safe
    near = torch.minimum(first, second).amax(2).clamp_min(0)
    far = torch.maximum(first, second).amin(2)
    is_hit = far > near
    return near.where(is_hit, 0), far.where(is_hit, 0)
