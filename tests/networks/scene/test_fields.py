"""Grids interpolate linearly, and fields turn features into density and colour."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.networks.scene.fields import PLANES, FeatureGrid, SceneField
from distill.networks.scene.sizes import SceneSizes

RESOLUTION = 5


def grid_of(is_dense: bool, channels: int = 2, rate: float = 10.0) -> FeatureGrid:
    return FeatureGrid(is_dense, 1, channels, RESOLUTION, rate).double()


def places(dimensions: int) -> Tensor:
    """Return the coordinates of all nodes; those of the first coordinate are along the last axis."""
    line = torch.linspace(-1, 1, RESOLUTION, dtype=torch.float64)
    return torch.stack(torch.meshgrid(*[line] * dimensions, indexing="ij")[::-1])


def points(count: int = 20, scenes: int = 1) -> Tensor:
    return (
        2 * torch.rand(scenes, count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    )


SLOPES = torch.tensor([[1.0, 2.0, 3.0], [-0.5, 0.25, 4.0]], dtype=torch.float64)


def test_a_dense_grid_interpolates_linear_functions_exactly() -> None:
    grid = grid_of(True)
    nodes = torch.einsum("ck,kzyx->czyx", SLOPES, places(3))
    found = grid.at(nodes[None] / grid.rate, points())
    torch.testing.assert_close(found, SLOPES @ points().transpose(1, 2))


def test_planes_that_are_added_interpolate_linear_functions_exactly() -> None:
    grid = grid_of(False)
    nodes = torch.stack([torch.einsum("ck,kyx->cyx", SLOPES[:, list(pair)], places(2)) for pair in PLANES])
    found = grid.at(nodes[None] / grid.rate, points())
    # Each coordinate is across two of the planes.
    torch.testing.assert_close(found, 2 * SLOPES @ points().transpose(1, 2))


@pytest.mark.parametrize("is_dense", [True, False])
def test_beyond_the_cube_features_are_those_of_its_surface(is_dense: bool) -> None:
    grid = grid_of(is_dense)
    outside = torch.tensor([[[1.5, 0.2, -7.0]]], dtype=torch.float64)
    assert grid.at(grid.nodes, outside).equal(grid.at(grid.nodes, outside.clamp(-1, 1)))


@pytest.mark.parametrize("is_dense", [True, False])
def test_gradients_of_nodes_are_those_of_finite_differences(is_dense: bool) -> None:
    grid = FeatureGrid(is_dense, 2, 1, 3, 2.0).double()
    assert torch.autograd.gradcheck(lambda nodes: grid.at(nodes, points(3, 2)), grid.nodes)


@pytest.mark.parametrize("is_dense", [True, False])
def test_features_begin_alike_at_every_rate_and_move_in_proportion_to_it(is_dense: bool) -> None:
    grids = []
    for rate in (1.0, 10.0):
        torch.manual_seed(0)
        grids.append(grid_of(is_dense, rate=rate))
    slow, fast = (grid.at(grid.nodes, points()) for grid in grids)
    torch.testing.assert_close(slow, fast)
    moved = [grid.at(grid.nodes + 0.01, points()) for grid in grids]
    torch.testing.assert_close(moved[1] - fast, 10 * (moved[0] - slow))


def small(**sizes: object) -> SceneField:
    torch.manual_seed(0)
    settings = {"resolution": 4, "features": 3, "width": 8, **sizes}
    return SceneField(SceneSizes.model_validate(settings), 3).double()


@pytest.mark.parametrize("sizes", [{}, {"width": 0}, {"layers": 2}, {"representation": "triplane"}])
def test_scenes_of_one_batch_are_the_same_as_on_their_own(sizes: dict[str, object]) -> None:
    field = small(particles=3, **sizes)
    particle = torch.tensor([2, 0])
    density, colour = field.of(particle)(points(7, 2))
    for row in range(2):
        alone = field.of(particle[row : row + 1])(points(7, 2)[row : row + 1])
        torch.testing.assert_close((density[row], colour[row]), (alone[0][0], alone[1][0]))


def test_views_of_the_only_scene_are_the_same_as_on_their_own() -> None:
    field = small()
    density, colour = field.of(torch.tensor([0, 0]))(points(7, 2))
    for row in range(2):
        alone = field.of(torch.tensor([0]))(points(7, 2)[row : row + 1])
        torch.testing.assert_close((density[row], colour[row]), (alone[0][0], alone[1][0]))


def test_density_without_features_is_the_softplus_of_a_blob_around_the_centre() -> None:
    field = small(width=0, blob_density=8.0, blob_radius=0.5)
    torch.nn.init.zeros_(field.grid.nodes)
    density, colour = field.of(torch.tensor([0]))(
        torch.tensor([[[0.0, 0, 0], [0, 0.25, 0], [0, 0, 1]]]).double()
    )
    expected = torch.nn.functional.softplus(torch.tensor([[8.0, 4.0, -8.0]]).double())
    torch.testing.assert_close(density, expected)
    assert colour.eq(0.5).all()


def test_a_field_with_a_network_is_that_network_of_its_features() -> None:
    field = small(blob_density=0.0)
    hidden = field.grid.at(field.grid.nodes, points()).transpose(1, 2)[0]
    hidden = (hidden @ field.weights[0][0].T + field.biases[0][0, :, 0]).relu()
    raw = hidden @ field.weights[1][0].T + field.biases[1][0, :, 0]
    density, colour = field.of(torch.tensor([0]))(points())
    torch.testing.assert_close(density[0], torch.nn.functional.softplus(raw[:, 0]))
    torch.testing.assert_close(colour[0], raw[:, 1:].sigmoid())
