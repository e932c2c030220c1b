"""A generator whose weights are scenes: noise chooses the scene, the camera and the light of an image."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config.config_file import describe
from distill.networks.scene.cameras import CAMERA_NUMBERS, Cameras
from distill.networks.scene.fields import SceneField
from distill.networks.scene.gaussians import GaussianField
from distill.networks.scene.renderer import Light, Render
from distill.networks.scene.sizes import SceneSizes
from distill.types import Condition, Generator, ImageCodec

PARTICLE, CAMERA = 0, 1
LIGHT = CAMERA + CAMERA_NUMBERS
SHIFT = LIGHT + 3
"""Places among the numbers of z: those of the camera and the three of the light begin there."""
NOISE_NUMBERS = 1 + SHIFT
LIGHT_SHARE = 0.7
"""Share of a shaded image's colour that its light gives; the rest is ambient."""
LIGHT_HEIGHT = (math.radians(10), math.radians(80))
"""Minimum and maximum elevation of the light, in radians."""
BACKGROUNDS = {"white": 1.0, "grey": 0.5, "black": 0.0}


class SceneGenerator(Generator):
    """A `Generator` that renders one of its scenes, its particles, from a camera that the noise chooses.

    z (b, 9) is N(0, I). Through the normal distribution function it becomes uniform numbers, for the
    particle, the camera, the light, and the points along the rays. The condition of an image is the label or
    the prompt of its view, which `condition_of` returns; the scene does not read it. Images are encoded by
    the teacher's autoencoder, if it has one, with the gradient.
    """

    def __init__(
        self,
        sizes: SceneSizes,
        pixel_shape: tuple[int, ...],
        image_shape: tuple[int, ...] | None = None,
        codec: ImageCodec | None = None,
    ) -> None:
        super().__init__()
        self.sizes, self.codec = sizes, codec
        self._pixel_shape, self.image_shape = pixel_shape, image_shape or pixel_shape
        self.label_count = 0
        is_volume = sizes.representation != "gaussians"
        self.field = (SceneField if is_volume else GaussianField)(sizes, pixel_shape[0])
        self.background = None
        if sizes.background == "learned":  # its logits
            self.background = nn.Parameter(torch.zeros(sizes.particles, pixel_shape[0]))

    def describe(self) -> dict[str, Any]:
        """Return its sizes as plain data, without the teacher's autoencoder."""
        return {"pixel_shape": self._pixel_shape, "sizes": self.sizes.model_dump(mode="json")}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> SceneGenerator:
        """Build the scenes from what `describe` returned. They make images, not latents."""
        try:
            sizes = SceneSizes.model_validate(description["sizes"])
        except ValidationError as error:
            raise ValueError(f"sizes.{describe(error, description['sizes'])}") from error
        shape = description["pixel_shape"]
        is_list = isinstance(shape, (list, tuple)) and len(shape) == 3
        if not (is_list and all(isinstance(length, int) and length > 0 for length in shape)):
            raise ValueError(f"pixel_shape: expected channels, height and width; found {shape!r}")
        return cls(sizes, tuple(shape))

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        return self._pixel_shape

    @property
    def step_noise_shape(self) -> tuple[int, ...]:
        return (NOISE_NUMBERS,)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, z: Float[Tensor, "b 9"], cond: Condition) -> Float[Tensor, "b ..."]:
        """Render images and encode them, (b, *image_shape)."""
        return self.encode(self.images(z, cond))

    def images(self, z: Float[Tensor, "b 9"], cond: Condition) -> Float[Tensor, "b c h w"]:
        """Render images in [-1, 1]."""
        return 2 * self._resized(self.rendered(z, *self.render_size).colour) - 1

    def images_from(self, cameras: Cameras, particle: Tensor) -> Float[Tensor, "b c h w"]:
        """Render images in [-1, 1] of the scenes of these numbers, (b,), from these cameras, unlit."""
        return 2 * self._resized(self.render(cameras, particle, *self.render_size).colour) - 1

    @property
    def render_size(self) -> tuple[int, int]:
        """Height and width of what is rendered, in pixels."""
        size = self.sizes.render_size
        height, width = self._pixel_shape[1:]
        return (height, width) if size is None else (size, size)

    def _resized(self, colour: Tensor) -> Tensor:
        """Bring rendered colours to the size of the images."""
        if colour.shape[1:] == self._pixel_shape:
            return colour
        return F.interpolate(colour, self._pixel_shape[1:], mode="bilinear", antialias=True)

    def rendered(
        self, z: Float[Tensor, "b 9"], height: int, width: int, with_normals: bool = False
    ) -> Render:
        """Render the views that noise chooses, at a size in pixels."""
        u = torch.special.ndtr(z)
        cameras, _ = self.sizes.cameras.draw(u[:, CAMERA:LIGHT])
        shift = u[:, SHIFT] if self.sizes.stratified and self.training else None
        light = self._light(u[:, LIGHT:SHIFT])
        return self.render(cameras, self.particle_of(z), height, width, shift, light, with_normals)

    def render(
        self,
        cameras: Cameras,
        particle: Tensor,
        height: int,
        width: int,
        shift: Tensor | None = None,
        light: Light | None = None,
        with_normals: bool = False,
    ) -> Render:
        """Render the scenes of these numbers, (b,), from these cameras, at a size in pixels."""
        background = self._background_of(particle)
        return self.field.render(particle, cameras, (height, width), background, shift, light, with_normals)

    def particle_of(self, z: Float[Tensor, "b 9"]) -> Tensor:
        """Return the number of the scene that noise chooses, (b,)."""
        count = self.sizes.particles
        return (torch.special.ndtr(z[:, PARTICLE]) * count).long().clamp(0, count - 1)

    def condition_of(self, z: Float[Tensor, "b 9"]) -> Condition:
        """Return the label, or the number of the prompt, of each view, and its camera."""
        cameras, label = self.sizes.cameras.draw(torch.special.ndtr(z[:, CAMERA:LIGHT]))
        return Condition(label, camera=cameras.rows())

    def _background_of(self, particle: Tensor) -> Tensor:
        """Return the colours behind the scenes of these numbers, (b, c), in [0, 1]."""
        if self.background is not None:
            return self.background[particle].sigmoid()
        colour = BACKGROUNDS[self.sizes.background]
        return torch.full((len(particle), self._pixel_shape[0]), colour, device=particle.device)

    def _light(self, u: Tensor) -> Light | None:
        """Return the light at uniform numbers (b, 3): whether there is one, and its direction."""
        if self.sizes.shaded == 0:
            return None
        low, high = LIGHT_HEIGHT
        azimuth, elevation = 2 * math.pi * u[:, 1], low + u[:, 2] * (high - low)
        _, _, direction = Cameras(azimuth, elevation, azimuth, azimuth).axes()
        return Light(direction, LIGHT_SHARE * (u[:, 0] < self.sizes.shaded).to(u))
