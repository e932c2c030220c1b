"""Cameras look where they say, and their labels say where they stand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distill.networks.scene.cameras import Cameras, Orbit, Ring
from tests.helpers.analytic_scenes import RED, blob, camera, render

HEIGHT, WIDTH = 4, 6


def project(point: np.ndarray, numbers: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """Project a point by a look-at matrix to pixel coordinates, column and row from the upper left corner."""
    azimuth, elevation, distance, field_of_view = numbers
    place = distance * np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        ]
    )
    forwards = -place / np.linalg.norm(place)
    right = np.cross(forwards, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    x, y, z = np.stack([right, np.cross(forwards, right), forwards]) @ (point - place)
    focal = height / 2 / math.tan(field_of_view / 2)
    return np.array([width / 2 + focal * x / z, height / 2 + focal * y / z])


@pytest.mark.parametrize("numbers", [(0.0, 0.0, 3.0, 0.8), (2.2, 0.6, 2.0, 1.2), (-1.0, -0.4, 4.0, 0.5)])
def test_a_point_of_a_ray_is_projected_to_the_centre_of_its_pixel(numbers: tuple[float, ...]) -> None:
    cameras = Cameras.from_rows(torch.tensor([numbers], dtype=torch.float64))
    origins, directions = cameras.rays(HEIGHT, WIDTH)
    for pixel, direction in enumerate(directions[0].numpy()):
        row, column = divmod(pixel, WIDTH)
        found = project(origins[0].numpy() + (1 + 0.1 * pixel) * direction, numbers, HEIGHT, WIDTH)
        np.testing.assert_allclose(found, [column + 0.5, row + 0.5], atol=1e-9)


def test_rays_have_unit_directions() -> None:
    _, directions = camera(30, 20).rays(HEIGHT, WIDTH)
    torch.testing.assert_close(directions.norm(dim=2), torch.ones(1, HEIGHT * WIDTH, dtype=torch.float64))


def test_rows_and_from_rows_are_inverse() -> None:
    rows = torch.tensor([[0.1, 0.2, 3.0, 0.8], [1.1, -0.2, 2.0, 0.9]])
    assert Cameras.from_rows(rows).rows().equal(rows)


@pytest.mark.parametrize(
    ("place", "azimuth", "elevation", "row", "column"),
    [
        ((0.5, 0, 0), 0, 0, 1, 2),  # the right, from the front
        ((0.5, 0, 0), 180, 0, 1, 0),  # the same from the back: on the left
        ((0, 0, 0.5), 90, 0, 1, 0),  # the front, from the right: on the left
        ((0, 0.5, 0), 0, 0, 0, 1),  # above
        ((0, 0, 0.5), 0, 90, 2, 1),  # the front, from overhead: below
    ],
)
def test_a_blob_appears_where_an_upright_viewer_expects_it(
    place: tuple[float, ...], azimuth: float, elevation: float, row: int, column: int
) -> None:
    field = blob(50.0, 0.1, torch.tensor(place, dtype=torch.float64))
    opacity = render(field, camera(azimuth, elevation, field_of_view=30), size=3).opacity[0, 0]
    assert divmod(int(opacity.argmax()), 3) == (row, column)
    assert opacity[row, column] > 0.9


@pytest.mark.parametrize(
    ("azimuth", "elevation", "label"),
    [
        (0, 0, 0),
        (45, 0, 0),
        (-45, 0, 0),
        (46, 0, 1),
        (-134, 0, 1),
        (135, 0, 2),
        (180, 0, 2),
        (-180, 0, 2),
        (190, 0, 2),
        (360, 0, 0),
        (0, 59, 0),
        (0, 60, 3),
        (180, 90, 3),
    ],
)
def test_a_view_has_the_label_of_its_side_at_the_borders_too(
    azimuth: float, elevation: float, label: int
) -> None:
    orbit = Orbit(azimuth=(azimuth, azimuth), elevation=(elevation, elevation))
    assert orbit.draw(torch.rand(1, 4))[1].tolist() == [label]


def test_uniform_numbers_span_the_ranges_of_an_orbit() -> None:
    orbit = Orbit(azimuth=(-90, 90), elevation=(0, 30), distance=(2, 4), field_of_view=(40, 60))
    cameras, _ = orbit.draw(torch.tensor([[0.0] * 4, [0.5] * 4, [1.0] * 4]))
    angles = cameras.rows()
    angles[:, [0, 1, 3]] = angles[:, [0, 1, 3]].rad2deg()
    torch.testing.assert_close(angles, torch.tensor([[-90.0, 0, 2, 40], [0, 15, 3, 50], [90, 30, 4, 60]]))


def test_a_ring_numbers_its_cameras_around_each_elevation() -> None:
    ring = Ring(count=4, elevations=(0, 30), distance=2, field_of_view=50, turn=10)
    angles = ring.numbered(torch.tensor([0, 1, 5])).rows()
    angles[:, [0, 1, 3]] = angles[:, [0, 1, 3]].rad2deg()
    torch.testing.assert_close(angles, torch.tensor([[10.0, 0, 2, 50], [100, 0, 2, 50], [100, 30, 2, 50]]))


def test_uniform_numbers_draw_all_cameras_of_a_ring_equally_often() -> None:
    u = torch.zeros(80, 4)
    u[:, 0] = (torch.arange(80) + 0.5) / 80
    ring = Ring(count=4, elevations=(0, 30))
    assert ring.draw(u)[1].bincount().tolist() == [10] * ring.view_count


def test_the_number_one_draws_the_last_camera_of_a_ring() -> None:
    assert Ring(count=4).draw(torch.ones(1, 4))[1].tolist() == [3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elevation": (0, 95)}, r"elevation: is \[0.0, 95.0\]; expected degrees from -90 to 90"),
        ({"elevation": (50, 10)}, "elevation: 50 is above 10; expected the minimum first"),
        ({"distance": (0, 1)}, "distance: is 0; expected more than 0"),
        (
            {"field_of_view": (20, 180)},
            r"field_of_view: is \[20.0, 180.0\]; expected degrees above 0 and below 180",
        ),
    ],
)
def test_cameras_that_cannot_be_are_refused(settings: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Orbit(**settings)  # type: ignore[arg-type]


def test_red_is_seen_from_every_side_as_red() -> None:
    colour = render(blob(500.0, 0.3), camera(77, -33), size=1).colour
    torch.testing.assert_close(colour.flatten(), torch.tensor(RED, dtype=torch.float64))
