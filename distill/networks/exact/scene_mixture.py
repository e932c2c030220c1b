"""A teacher of known scenes: for each view, a Gaussian mixture around the images of the scenes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.scene.cameras import Cameras, Ring
from distill.networks.scene.renderer import Render, Renderer
from distill.networks.scene.solids import SCENES, solid_field
from distill.types import Condition, NoiseSchedule

CHANNELS = 3


class SceneMixture(GaussianMixture):
    """The mixture over scenes, equally likely, of N(image of the scene from the label's camera, std^2 I).

    The label is the number of a camera of the ring; without a label all cameras are equally likely. Images
    are (3, size, size) in [-1, 1], over white.
    """

    def __init__(
        self,
        scenes: Sequence[str],
        cameras: Ring,
        size: int,
        std: float,
        samples: int,
        schedule: NoiseSchedule,
    ) -> None:
        self.cameras = cameras
        self.renderer = Renderer(samples)
        self.fields = [solid_field(SCENES[name]) for name in scenes]
        labels = torch.arange(cameras.view_count)
        views = cameras.numbered(labels)
        images = [
            2 * self.render(views, scene, size, size).colour.flatten(1) - 1 for scene in range(len(scenes))
        ]
        means = torch.cat(images)
        super().__init__(
            torch.ones(len(means)),
            means,
            torch.full_like(means, std**2),
            schedule,
            labels=labels.repeat(len(scenes)),
        )
        self.image_shape = (CHANNELS, size, size)

    def render(self, cameras: Cameras, scene: int, height: int, width: int) -> Render:
        """Render one of the true scenes, by its number, from these cameras."""
        background = torch.ones(len(cameras.azimuth), CHANNELS)
        return self.renderer.render(self.fields[scene], cameras, (height, width), background)

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c h w"]:
        return super().forward(x_t.flatten(1), t, cond).view_as(x_t)

    def log_density(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, " b"]:
        return super().log_density(x_t.flatten(1), t, cond)
