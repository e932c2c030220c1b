"""Scenes of Gaussians: gsplat's inputs agree with the cameras' rays, and images with closed forms.

A rasterizer in plain torch takes the place of gsplat's, which needs CUDA.
"""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.folder import load_generator, save_model
from distill.networks.scene import gaussians
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.gaussians import RATES, GaussianField, intrinsics, rotations, view_matrices
from distill.networks.scene.renderer import Light, Render
from distill.networks.scene.scene import NOISE_NUMBERS, SceneGenerator
from distill.networks.scene.sizes import SceneSizes
from distill.types import Condition
from tests.helpers.analytic_scenes import camera
from tests.helpers.splatting import LOW_PASS, covariances, rasterize

SIZE = 9
RED, BLUE = (30.0, -30.0, -30.0), (-30.0, -30.0, 30.0)


def field_of(
    means: list[tuple[float, ...]],
    colours: list[tuple[float, ...]],
    scales: tuple[float, ...] = (0.1, 0.1, 0.1),
    opacity: float = 0.8,
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0),
) -> GaussianField:
    """Return Gaussians at these places, alike but for their colours, which are logits."""
    sizes = SceneSizes(representation="gaussians", gaussians=len(means))
    field = GaussianField(sizes, 3, rasterize).double()
    values = {
        "means": means,
        "log_scales": [[math.log(scale) for scale in scales]] * len(means),
        "quaternions": [quaternion] * len(means),
        "opacity": [math.log(opacity / (1 - opacity))] * len(means),
        "colour": colours,
    }
    for name, value in values.items():
        field.raw[name].data = torch.tensor([value], dtype=torch.float64) / RATES[name]
    return field


def render(field: GaussianField, cameras: Cameras, **options: object) -> Render:
    background = torch.zeros(1, 3, dtype=torch.float64)
    return field.render(torch.tensor([0]), cameras, (SIZE, SIZE), background, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (120, 35), (-60, -20)])
def test_a_point_of_a_ray_is_projected_to_the_centre_of_its_pixel(azimuth: float, elevation: float) -> None:
    height, width = 4, 6
    cameras = camera(azimuth, elevation, field_of_view=50)
    origins, directions = cameras.rays(height, width)
    points = origins[:, None] + torch.linspace(1, 4, height * width)[:, None] * directions
    view = view_matrices(cameras)
    projected = intrinsics(cameras, height, width) @ (view[:, :3, :3] @ points.mT + view[:, :3, 3:])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    expected = torch.stack([columns, rows]).flatten(1).double() + 0.5
    torch.testing.assert_close(projected[0, :2] / projected[0, 2:], expected)


def test_a_view_matrix_is_rigid_and_takes_the_camera_to_the_origin() -> None:
    cameras = camera(120, 35)
    view = view_matrices(cameras)[0]
    torch.testing.assert_close(view[:3, :3] @ view[:3, :3].T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(view), torch.tensor(1.0, dtype=torch.float64))
    place = torch.cat([cameras.rays(1, 1)[0][0], torch.ones(1, dtype=torch.float64)])
    torch.testing.assert_close(view @ place, torch.tensor([0, 0, 0, 1], dtype=torch.float64))


def test_rotations_of_quaternions_make_the_covariance_of_the_reference() -> None:
    quaternions, scales = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    matrices = rotations(quaternions)
    found = matrices @ scales.square().diag_embed() @ matrices.mT
    torch.testing.assert_close(found, covariances(quaternions, scales))


def test_a_gaussian_is_seen_as_its_projection() -> None:
    cameras = camera(30, 20)
    found = render(field_of([(0, 0, 0)], [RED]), cameras)
    pixels = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    square = pixels.square()[:, None] + pixels.square()
    focal = SIZE / 2 / math.tan(math.radians(10))
    expected = 0.8 * (-square / (2 * ((0.1 * focal / 3) ** 2 + LOW_PASS))).exp()
    torch.testing.assert_close(found.opacity[0, 0], expected)
    torch.testing.assert_close(found.colour[0, 0], expected)


def test_the_depth_is_the_distance_to_the_centre_of_a_gaussian() -> None:
    cameras = camera(30, 20, field_of_view=60)
    origins, directions = cameras.rays(SIZE, SIZE)
    place = tuple((origins[0] + 2.5 * directions[0, 12]).tolist())
    depth = render(field_of([place], [RED], scales=(0.02, 0.02, 0.02)), cameras).depth
    torch.testing.assert_close(depth.flatten()[12].item(), 2.5)


@pytest.mark.parametrize(("azimuth", "expected"), [(0, (0.8, 0.0, 0.16)), (180, (0.16, 0.0, 0.8))])
def test_the_gaussian_in_front_hides_the_one_behind(azimuth: float, expected: tuple[float, ...]) -> None:
    field = field_of([(0, 0, -0.5), (0, 0, 0.5)], [BLUE, RED])
    found = render(field, camera(azimuth)).colour[0, :, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("azimuth", "side"), [(60, 1.0), (-60, -1.0)])
def test_the_normal_is_the_shortest_axis_towards_the_camera(azimuth: float, side: float) -> None:
    turned = (math.cos(math.pi / 4), 0.0, math.sin(math.pi / 4), 0.0)  # z to x, around y
    field = field_of([(0, 0, 0)], [RED], scales=(0.1, 0.1, 0.01), quaternion=turned)
    found = render(field, camera(azimuth), with_normals=True)
    middle = found.normals[0, :, SIZE // 2, SIZE // 2] / found.opacity[0, 0, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(middle, torch.tensor([side, 0.0, 0.0], dtype=torch.float64))


def test_light_shades_a_flat_gaussian_by_the_cosine_of_its_angle() -> None:
    field = field_of([(0, 0, 0)], [RED], scales=(0.1, 0.1, 0.01))
    light = Light(*(torch.tensor(value, dtype=torch.float64) for value in ([[0.6, 0.0, 0.8]], [0.7])))
    red = render(field, camera(), light=light).colour[0, 0, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(red.item(), 0.8 * (0.3 + 0.7 * 0.8))


def test_gaussians_begin_in_a_ball() -> None:
    field = GaussianField(
        SceneSizes(representation="gaussians", gaussians=4000, blob_radius=0.5), 3, rasterize
    )
    radius = field.raw["means"].norm(dim=2) * RATES["means"]
    assert radius.max() <= 0.5
    # A ball holds an eighth of its volume within half its radius.
    assert (radius < 0.25).double().mean().item() == pytest.approx(1 / 8, abs=0.02)


def generator(monkeypatch: pytest.MonkeyPatch, **sizes: object) -> SceneGenerator:
    monkeypatch.setattr(gaussians, "load_rasterizer", lambda: rasterize)
    torch.manual_seed(0)
    settings = {"representation": "gaussians", "gaussians": 20, **sizes}
    return SceneGenerator(SceneSizes.model_validate(settings), (3, 6, 8))


def noise() -> Tensor:
    return torch.randn(3, NOISE_NUMBERS, generator=torch.Generator().manual_seed(1))


def test_all_parameters_of_the_particle_that_is_seen_have_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = generator(monkeypatch, particles=2, shaded=1.0)
    z = noise()
    z[:, 0] = 1.0
    scenes(z, Condition()).square().sum().backward()
    for name, parameter in scenes.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[1].abs().sum() > 0, name
        assert parameter.grad[0].eq(0).all(), name


def test_saved_gaussians_open_as_the_same_generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenes = generator(monkeypatch, particles=2).eval()
    save_model(scenes, tmp_path)
    opened = load_generator(tmp_path)
    assert opened(noise(), Condition()).equal(scenes(noise(), Condition()))


def test_gaussians_without_gsplat_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(UserError, match=r"not installed; expected it from pip install '.\[gaussians\]', or"):
        SceneGenerator(SceneSizes(representation="gaussians"), (3, 6, 8))


def test_gaussians_without_cuda_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=rasterize))
    with pytest.raises(UserError, match="gaussians needs a CUDA device; expected dense or triplane here"):
        SceneGenerator(SceneSizes(representation="gaussians"), (3, 6, 8))
