"""The renderer agrees with closed forms of light in fog, blobs, balls and half-spaces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.networks.scene.renderer import Light, Renderer, cube_bounds, ray_weights
from tests.helpers.analytic_scenes import BLUE, RED, ball, blob, camera, field_of, fog, render

DIAGONAL = math.degrees(math.asin(3**-0.5))


def impact(size: int, cameras: object) -> Tensor:
    """Return the distance of each ray from the centre, (size, size)."""
    origins, directions = cameras.rays(size, size)  # type: ignore[attr-defined]
    return (
        torch.linalg.cross(origins[:, None].expand_as(directions), directions)[0].norm(dim=1).view(size, size)
    )


@pytest.mark.parametrize(
    ("azimuth", "elevation", "length"),
    [(0, 0, 2), (90, 0, 2), (0, 90, 2), (45, 0, 8**0.5), (45, DIAGONAL, 12**0.5)],
)
def test_fog_along_an_axis_and_along_diagonals_has_the_opacity_of_its_length(
    azimuth: float, elevation: float, length: float
) -> None:
    opacity = render(fog(0.4), camera(azimuth, elevation), size=1).opacity
    torch.testing.assert_close(opacity.item(), 1 - math.exp(-0.4 * length))


def test_fog_is_denser_towards_the_edges_as_its_rays_are_longer() -> None:
    cameras = camera()  # all its rays pass through the front and through the back of the cube
    _, directions = cameras.rays(5, 5)
    expected = 1 - (-0.4 * 2 / directions[0, :, 2].abs()).exp()
    torch.testing.assert_close(render(fog(0.4), cameras).opacity.flatten(), expected)


def test_a_camera_inside_the_fog_sees_what_is_in_front_of_it() -> None:
    opacity = render(fog(0.4), camera(distance=0.25), size=1).opacity
    torch.testing.assert_close(opacity.item(), 1 - math.exp(-0.4 * 1.25))


def test_rays_that_miss_the_cube_see_the_background() -> None:
    field = blob(1.0, 1.0)
    background = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64)
    found = Renderer(8).render(field, camera(distance=10, field_of_view=90), (8, 8), background)
    torch.testing.assert_close(found.colour[0, :, 0, 0], background[0])
    assert found.opacity[0, 0, 0, 0] == found.depth[0, 0, 0, 0] == 0


def test_a_ray_parallel_to_a_face_that_misses_the_cube_has_no_points_in_it() -> None:
    origins = torch.tensor([[-2.0, 0.0, 3.0]])
    near, far = cube_bounds(origins, torch.tensor([[[0.0, 0.0, -1.0]]]))
    assert near.item() == far.item() == 0


def test_a_gaussian_blob_has_the_opacity_of_its_line_integral() -> None:
    cameras = camera(30, 20)
    peak, width = 3.0, 0.15
    integral = peak * width * math.sqrt(2 * math.pi) * (-impact(5, cameras).square() / (2 * width**2)).exp()
    found = render(blob(peak, width), cameras).opacity[0, 0]
    torch.testing.assert_close(found, 1 - (-integral).exp(), rtol=1e-5, atol=1e-7)


def test_colour_is_mixed_with_the_background_by_opacity() -> None:
    background = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64)
    found = Renderer(16).render(fog(0.4), camera(), (1, 1), background)
    share = 1 - math.exp(-0.8)
    expected = share * torch.tensor(RED, dtype=torch.float64) + (1 - share) * background[0]
    torch.testing.assert_close(found.colour.flatten(), expected)


def test_what_is_in_front_hides_what_is_behind_by_its_opacity() -> None:
    def colour(points: Tensor) -> Tensor:
        return torch.where(points[..., 2:] > 0, points.new_tensor(RED), points.new_tensor(BLUE))

    half = field_of(lambda points: torch.full_like(points[..., 0], 0.7), colour)
    found = render(half, camera(), size=1).colour.flatten()
    share = 1 - math.exp(-0.7)
    expected = torch.tensor([share, 0, (1 - share) * share], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_the_depth_of_an_opaque_ball_is_the_distance_to_its_surface() -> None:
    cameras = camera(30, 20, field_of_view=12)
    found = render(ball(0.6, softness=0.002), cameras, samples=1000).depth[0, 0]
    distance = impact(5, cameras)
    expected = (9 - distance.square()).sqrt() - (0.36 - distance.square()).sqrt()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def fog_depth(samples: int) -> float:
    """Return the error of the mean depth of fog of density 1 along the axis, 2 long and 2 away."""
    expected = 2 + 1 - 2 * math.exp(-2) / (1 - math.exp(-2))
    return abs(render(fog(1.0), camera(), size=1, samples=samples).depth.item() - expected)


def test_the_error_of_a_depth_falls_with_the_square_of_the_number_of_samples() -> None:
    assert fog_depth(16) / fog_depth(32) == pytest.approx(4, abs=0.01)


def test_weights_and_the_transmittance_sum_to_one() -> None:
    density, spacing = torch.rand(3, 7, dtype=torch.float64), torch.tensor([[0.1], [1.0], [30.0]])
    total = ray_weights(density, spacing).sum(1) + (-(density * spacing).sum(1)).exp()
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))


def test_a_weight_is_the_light_that_reaches_a_point_times_the_share_it_holds_back() -> None:
    found = ray_weights(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.5))
    share = [1 - math.exp(-thickness) for thickness in (0.5, 1.0, 1.5)]
    expected = [share[0], (1 - share[0]) * share[1], (1 - share[0]) * (1 - share[1]) * share[2]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_wall_behind_fog_does_not_change_the_rounding_of_the_fog() -> None:
    found = ray_weights(torch.tensor([0.1, 1e8]), torch.tensor(1.0))
    torch.testing.assert_close(found, torch.tensor([1 - math.exp(-0.1), math.exp(-0.1)]))


def test_gradients_of_weights_are_those_of_finite_differences() -> None:
    density = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    spacing = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda density: ray_weights(density, spacing), density)


def test_gradients_of_renders_are_those_of_finite_differences() -> None:
    background = torch.rand(1, 3, dtype=torch.float64, requires_grad=True)
    parameters = [torch.tensor(value, dtype=torch.float64) for value in (3.0, 0.5, (0.1, -0.2, 0.05))]
    light = Light(
        torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    )

    def images(background: Tensor, peak: Tensor, width: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
        found = Renderer(6).render(blob(peak, width, centre), camera(20), (2, 2), background, light=light)
        return found.colour, found.opacity, found.depth, found.normals

    assert torch.autograd.gradcheck(images, [background, *(value.requires_grad_() for value in parameters)])


@pytest.mark.parametrize("points_at_once", [1, 50, 100])
def test_images_and_gradients_do_not_depend_on_how_many_points_are_computed_together(
    points_at_once: int,
) -> None:
    results = []
    for count in (2**20, points_at_once):
        width = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        background = torch.ones(1, 3, dtype=torch.float64)
        shift = torch.tensor([0.3], dtype=torch.float64)
        found = Renderer(10, count).render(blob(3.0, width), camera(20), (4, 4), background, shift)
        found.colour.square().sum().backward()
        results.append((*found, width.grad))
    torch.testing.assert_close(results[0], results[1])


def test_renders_are_float32_under_autocast() -> None:
    weight = torch.eye(3)
    field = field_of(lambda points: (points @ weight).square().sum(-1))
    cameras, background = camera().rows().float(), torch.ones(1, 3)

    def images() -> Tensor:
        return Renderer(8).render(field, type(camera()).from_rows(cameras), (4, 4), background).colour

    expected = images()
    with torch.autocast("cpu", torch.bfloat16):
        assert images().equal(expected)


def test_shifted_points_are_right_on_average() -> None:
    peak, width, count = 3.0, 0.15, 32
    shift = torch.arange(count, dtype=torch.float64) / count
    cameras = type(camera()).from_rows(camera(30).rows().expand(count, -1))
    found = render(blob(peak, width), cameras, samples=4, shift=shift).opacity
    integral = -(1 - found).log()
    expected = (
        peak * width * math.sqrt(2 * math.pi) * (-impact(5, camera(30)).square() / (2 * width**2)).exp()
    )
    torch.testing.assert_close(integral.mean(0)[0], expected, rtol=1e-4, atol=1e-6)
    assert (integral.std(0) > 0.1 * integral.mean(0)).all()


def test_a_shift_moves_the_points_of_neighbouring_pixels_differently() -> None:
    found = render(blob(3.0, 0.15), camera(), samples=4, shift=torch.zeros(1, dtype=torch.float64)).opacity[
        0, 0
    ]
    assert (found - found.flip(1)).abs().max() > 0.01  # the scene is symmetric, its samples are not


def test_normals_of_a_ball_point_outwards() -> None:
    cameras = camera(30, 20)
    found = render(ball(0.6, softness=0.05), cameras, samples=256, with_normals=True)
    origins, directions = cameras.rays(5, 5)
    surface = origins[:, None] + found.depth.flatten(1)[..., None] * directions
    cosine = torch.cosine_similarity(found.normals.flatten(2).transpose(1, 2), surface, dim=2)
    assert cosine.min() > 0.99


@pytest.mark.parametrize(("azimuth", "expected"), [(0, 0.0), (180, 1.0), (120, 0.25)])
def test_normals_face_away_by_the_square_of_their_cosine_with_the_ray(
    azimuth: float, expected: float
) -> None:
    fog_towards_front = field_of(lambda points: 20 - 10 * points[..., 2])  # normals are +z
    found = render(fog_towards_front, camera(azimuth), size=1, with_normals=True)
    torch.testing.assert_close(found.facing_away.item(), expected * found.opacity.item())


def test_there_are_no_normals_unless_they_are_asked_for() -> None:
    assert render(ball(0.6), camera()).normals.eq(0).all()


@pytest.mark.parametrize(
    ("direction", "cosine"), [((0, 0, 1), 1.0), ((0.6, 0, 0.8), 0.8), ((0, 1, 0), 0.0), ((0, 0, -1), 0.0)]
)
def test_light_shades_a_surface_by_the_cosine_of_its_angle(
    direction: tuple[float, ...], cosine: float
) -> None:
    wall = field_of(lambda points: 1000 * ((0.3 - points[..., 2]) / 0.05).sigmoid())
    light = Light(torch.tensor([direction], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))
    red = render(wall, camera(), light=light).colour[0, 0]
    torch.testing.assert_close(red, torch.full_like(red, 0.3 + 0.7 * cosine))
