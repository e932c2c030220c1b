"""Views of a scene that training did not show, and their renders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float32
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.scene.cameras import CAMERA_NUMBERS, CameraDistribution, Cameras, Ring
from distill.networks.scene.renderer import Render
from distill.networks.scene.scene import SceneGenerator

VIEWS = 8
"""Views around a scene with the cameras `orbit`, unless --views says otherwise."""


def held_out_views(cameras: CameraDistribution, count: int | None = None) -> Cameras:
    """Return cameras between those of training.

    A ring of cameras is turned by half the space between two of them. From an orbit come `count` cameras,
    evenly spaced in azimuth, in the middle of the other ranges.
    """
    if isinstance(cameras, Ring):
        if count is not None:
            raise UserError(
                f"--views {count}: goes with the cameras orbit; expected none, the run's ring has "
                f"{cameras.view_count}"
            )
        turned = cameras.model_copy(update={"turn": cameras.turn + 180 / cameras.count})
        return turned.numbered(torch.arange(turned.view_count))
    count = count or VIEWS
    u = torch.full((count, CAMERA_NUMBERS), 0.5)
    u[:, 0] = (torch.arange(count) + 0.5) / count
    views, _ = cameras.draw(u)
    return views


@torch.inference_mode()
def render_particles(
    generator: SceneGenerator, views: Cameras, batch_size: int
) -> Float32[Tensor, "particles views c h w"]:
    """Render every particle from these cameras at the size of its images; colours are in [0, 1]."""
    _, height, width = generator.pixel_shape

    def particle(number: int) -> Callable[[Cameras], Render]:
        return lambda cameras: generator.render(
            cameras, torch.full_like(cameras.azimuth, number, dtype=torch.int64), height, width
        )

    device = generator.device
    return torch.stack(
        [
            render_views(particle(number), views, batch_size, device)
            for number in range(generator.sizes.particles)
        ]
    )


@torch.inference_mode()
def render_views(
    render: Callable[[Cameras], Render], views: Cameras, batch_size: int, device: torch.device
) -> Float32[Tensor, "views c h w"]:
    """Render one scene from these cameras, a few at once, on a device; colours are in [0, 1], on the CPU."""
    parts = [
        render(Cameras.from_rows(rows.to(device))).colour.clamp(0, 1).float().cpu()
        for rows in views.rows().split(batch_size)
    ]
    return torch.cat(parts)
