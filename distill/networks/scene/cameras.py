"""Cameras around the origin, and the distributions from which training draws them.

Coordinates are right-handed with y up, as in glTF. A camera at azimuth 0 and elevation 0 stands on the
positive z axis and sees the front of the scene; the azimuth grows towards positive x.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from distill.config.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

FRONT, SIDE, BACK, OVERHEAD = range(4)
"""Labels of the views of an `Orbit`."""
CAMERA_NUMBERS = 4
"""Numbers that describe a camera, and uniform numbers that draw one."""


@dataclasses.dataclass(frozen=True)
class Cameras:
    """b pinhole cameras that look at the origin, upright. Angles are in radians."""

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    """Distance from the origin, in units of the scene."""
    field_of_view: Tensor
    """Vertical angle of view, below pi."""

    @classmethod
    def from_rows(cls, rows: Tensor) -> Cameras:
        """Read cameras from their numbers, (b, 4), as `rows` returns them."""
        return cls(*rows.unbind(1))

    def rows(self) -> Tensor:
        """Return the numbers of the cameras, (b, 4): azimuth, elevation, distance and field of view."""
        import torch

        return torch.stack([self.azimuth, self.elevation, self.distance, self.field_of_view], 1)

    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the unit vectors to the right, upwards and backwards of each camera, (b, 3) each."""
        import torch

        sine, cosine = self.azimuth.sin(), self.azimuth.cos()
        up_sine, up_cosine = self.elevation.sin(), self.elevation.cos()
        right = torch.stack([cosine, torch.zeros_like(sine), -sine], 1)
        backwards = torch.stack([sine * up_cosine, up_sine, cosine * up_cosine], 1)
        return right, torch.linalg.cross(backwards, right), backwards

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return origins (b, 3) and unit directions (b, height * width, 3) of the rays through all pixels.

        Pixels are in rows from the top, and a ray passes through the centre of its pixel.
        """
        import torch

        right, up, backwards = self.axes()
        column, row = (torch.arange(size, device=right.device).to(right) for size in (width, height))
        x = (2 * column + 1 - width) / height
        y = (height - 1 - 2 * row) / height
        y, x = torch.meshgrid(y, x, indexing="ij")
        scale = (self.field_of_view / 2).tan()[:, None, None]
        along_right = scale * x.reshape(1, -1, 1) * right[:, None]
        along_up = scale * y.reshape(1, -1, 1) * up[:, None]
        directions = along_right + along_up - backwards[:, None]
        return self.distance[:, None] * backwards, torch.nn.functional.normalize(directions, dim=2)


Degrees = tuple[float, float]


class Orbit(Settings):
    """Cameras drawn uniformly from ranges of angle and distance, for text to 3D from a text-to-image model.

    A view's label is the number of the prompt that names it: front, side, back or overhead.
    """

    name: Literal["orbit"] = "orbit"
    azimuth: Degrees = (-180.0, 180.0)
    """Minimum and maximum angle around the vertical axis, in degrees; 0 is the front. A full circle, the
    default, shows every side."""
    elevation: Degrees = (-10.0, 45.0)
    """Minimum and maximum angle above the horizon, in degrees."""
    distance: Degrees = (2.5, 3.5)
    """Minimum and maximum distance from the centre, in the unit in which the scene is a cube from -1 to 1.
    The defaults show the whole of the ball of radius 1 in most views, but not the corners of the cube."""
    field_of_view: Degrees = (40.0, 60.0)
    """Minimum and maximum vertical angle of view, in degrees. A larger one shows more of the surroundings."""
    front: float = Field(90.0, gt=0, lt=180)
    """Width of the front view, and of the back view, in degrees of azimuth. All else is a side view. A larger
    one calls more views the front."""
    overhead: float = Field(60.0, gt=-90, le=90)
    """Elevation, in degrees, from which on a view is an overhead view."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Orbit:
        for key in ("azimuth", "elevation", "distance", "field_of_view"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: {low:g} is above {high:g}; expected the minimum first")
        check_camera(self.elevation, self.distance, self.field_of_view)
        return self

    @property
    def view_count(self) -> int:
        """Number of labels of views."""
        return 1 + OVERHEAD

    def draw(self, u: Tensor) -> tuple[Cameras, Tensor]:
        """Return the cameras and the labels, (b,), of the views at uniform numbers u, (b, 4)."""
        import torch

        azimuth, elevation, distance, field_of_view = (
            low + column * (high - low)
            for column, (low, high) in zip(
                u.unbind(1), (self.azimuth, self.elevation, self.distance, self.field_of_view), strict=True
            )
        )
        turned = (azimuth + 180) % 360 - 180
        label = torch.full_like(turned, SIDE, dtype=torch.int64)
        label = label.masked_fill(turned.abs() <= self.front / 2, FRONT)
        label = label.masked_fill(turned.abs() >= 180 - self.front / 2, BACK)
        label = label.masked_fill(elevation >= self.overhead, OVERHEAD)
        cameras = Cameras(azimuth.deg2rad(), elevation.deg2rad(), distance, field_of_view.deg2rad())
        return cameras, label


class Ring(Settings):
    """A finite set of cameras, all equally frequent; the label of a view is the number of its camera."""

    name: Literal["ring"] = "ring"
    count: int = Field(8, ge=1)
    """Cameras on each ring around the vertical axis, evenly spaced, the first in front."""
    elevations: tuple[Annotated[float, Field(ge=-90, le=90)], ...] = Field((15.0,), min_length=1)
    """Angle of each ring above the horizon, in degrees."""
    distance: float = Field(3.0, gt=0)
    """Distance from the centre, in the unit in which the scene is a cube from -1 to 1."""
    field_of_view: float = Field(45.0, gt=0, lt=180)
    """Vertical angle of view, in degrees. A larger one shows more of the surroundings."""
    turn: float = 0.0
    """Angle by which all rings are turned around the vertical axis, in degrees. Half the space between two
    cameras gives views that the first rings do not show."""

    @property
    def view_count(self) -> int:
        """Number of cameras."""
        return self.count * len(self.elevations)

    def draw(self, u: Tensor) -> tuple[Cameras, Tensor]:
        """Return the cameras and their labels, (b,), at uniform numbers u, (b, 4); only the first counts."""
        label = (u[:, 0] * self.view_count).long().clamp(0, self.view_count - 1)
        return self.numbered(label), label

    def numbered(self, label: Tensor) -> Cameras:
        """Return the cameras of these numbers, (b,)."""
        import torch

        angles = [
            (math.radians(360 * number / self.count + self.turn), math.radians(elevation))
            for elevation, number in itertools.product(self.elevations, range(self.count))
        ]
        azimuth, elevation = torch.tensor(angles, device=label.device)[label].unbind(1)
        distance = torch.full_like(azimuth, self.distance)
        return Cameras(
            azimuth, elevation, distance, torch.full_like(azimuth, math.radians(self.field_of_view))
        )


CameraDistribution = Annotated[Orbit | Ring, Field(discriminator="name")]


def check_camera(elevation: Degrees, distance: Degrees, field_of_view: Degrees) -> None:
    """Raise ValueError for cameras that cannot be."""
    if elevation[0] < -90 or elevation[1] > 90:
        raise ValueError(f"elevation: is {list(elevation)}; expected degrees from -90 to 90")
    if distance[0] <= 0:
        raise ValueError(f"distance: is {distance[0]:g}; expected more than 0")
    if field_of_view[0] <= 0 or field_of_view[1] >= 180:
        raise ValueError(f"field_of_view: is {list(field_of_view)}; expected degrees above 0 and below 180")
