"""Views of a scene from cameras on a circle around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from distill.config.errors import UserError
from distill.data.images import check_images, to_pil
from distill.networks.scene.cameras import Cameras, Ring
from distill.networks.scene.renderer import Render
from distill.networks.scene.scene import SceneGenerator
from distill.publishing.scene.animation import save_gif
from distill.publishing.scene.description import turntable_name, turntable_of
from distill.publishing.scene.pictures import draw_colour
from distill.types import Generator

EXPORT_VIEWS, EXPORT_SIZE = 24, 256
"""Views, and the maximum height and width in pixels, of the turntables in an export."""


def check_scene(generator: Generator, run: Path) -> SceneGenerator:
    """Return a run's generator if it is a scene, and refuse another one."""
    if not isinstance(generator, SceneGenerator):
        raise UserError(f"--views: {run} makes images and is no scene; leave --views out")
    return generator


def render_views(
    scene: SceneGenerator, particle: int, ring: Ring, size: tuple[int, int], with_normals: bool = False
) -> Iterator[Render]:
    """Render a scene from each camera of a ring, one after the other, at a height and a width in pixels.

    Normals, which make it four times as long, are in coordinates of the camera: to the right, upwards, and
    towards the camera.
    """
    device = scene.device
    which = torch.tensor([particle], device=device)
    for number in range(ring.view_count):
        cameras = ring.numbered(torch.tensor([number], device=device))
        with torch.no_grad():
            render = scene.render(cameras, which, *size, with_normals=with_normals)
        check_images(render.colour, f"particle {particle}, view {number}")
        yield _in_camera(render, cameras)


def save_turntables(scene: SceneGenerator, folder: Path) -> None:
    """Write `turntable-0.gif` and so on, one for each particle, into an existing folder."""
    height, width = scene.pixel_shape[1:]
    scale = min(1.0, EXPORT_SIZE / max(height, width))
    size = round(scale * height), round(scale * width)
    ring = turntable_of(scene.sizes.cameras, EXPORT_VIEWS)
    for particle in range(scene.sizes.particles):
        frames = [to_pil(draw_colour(view)) for view in render_views(scene, particle, ring, size)]
        save_gif(frames, folder / turntable_name(particle))


def _in_camera(render: Render, cameras: Cameras) -> Render:
    axes = torch.stack(cameras.axes(), 1)  # (1, 3, 3), one axis in each row
    return render._replace(normals=torch.einsum("bij,bjhw->bihw", axes, render.normals))
