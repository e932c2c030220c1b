"""Particles against known scenes: which scene each particle shows, and how many scenes were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from distill.eval.scene.psnr import psnr
from distill.eval.scene.results import KnownSceneResults
from distill.eval.scene.views import render_views
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.renderer import Render
from distill.training.settings import DistillRun, RunConfig


@runtime_checkable
class KnownScenes(Protocol):
    """True scenes that can be rendered, on the CPU."""

    def render(self, cameras: Cameras, scene: int, height: int, width: int, /) -> Render:
        """Render the scene of this number from these cameras."""
        ...


class NamedScenes(NamedTuple):
    """Known scenes and their names, in the order of their numbers."""

    names: tuple[str, ...]
    scenes: KnownScenes


def scenes_of(config: RunConfig | None) -> NamedScenes | None:
    """Open the scenes that a run's teacher knows, None if it knows none."""
    if not isinstance(config, DistillRun) or config.teacher.name != "known_scenes":
        return None
    return NamedScenes(config.teacher.scenes, config.teacher.load())


def render_known(
    known: NamedScenes, views: Cameras, height: int, width: int, batch_size: int
) -> Float[Tensor, "scenes views c h w"]:
    """Render every known scene from these cameras; colours are in [0, 1]."""

    def scene(number: int) -> Callable[[Cameras], Render]:
        return lambda cameras: known.scenes.render(cameras, number, height, width)

    device = torch.device("cpu")
    return torch.stack(
        [render_views(scene(number), views, batch_size, device) for number in range(len(known.names))]
    )


def compare_with_known(
    particles: Float[Tensor, "particles views c h w"],
    truth: Float[Tensor, "scenes views c h w"],
    names: Sequence[str],
    found_psnr: float,
) -> KnownSceneResults:
    """Match each particle to the scene of the highest PSNR, the mean over views.

    A scene's mass is the share of particles that are matched to it. It is found if one of them has a PSNR
    above `found_psnr`.
    """
    table = torch.stack([psnr(images, truth).mean(1) for images in particles])
    best, nearest = table.max(1)
    counts = nearest.bincount(minlength=len(names))
    found = sorted(set(nearest[best > found_psnr].tolist()))
    return {
        "names": list(names),
        "psnr": table.tolist(),
        "nearest": [names[number] for number in nearest.tolist()],
        "nearest_psnr": best.tolist(),
        "mass": dict(zip(names, (counts / len(particles)).tolist(), strict=True)),
        "found_psnr": found_psnr,
        "found": [names[number] for number in found],
    }
