"""Trainable density and colour in the cube from -1 to 1: a dense grid, or three planes, of each particle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.scene.cameras import Cameras
from distill.networks.scene.renderer import Field3D, Light, Render, Renderer

if TYPE_CHECKING:
    from distill.networks.scene.sizes import SceneSizes

INIT_STD = 0.1
"""Standard deviation of the features before training."""
PLANES = ((0, 1), (0, 2), (1, 2))
"""Coordinates across each of three planes."""


class FeatureGrid(nn.Module):
    """Features at the nodes of a dense grid, or of three planes that are added, interpolated linearly.

    Each of `particles` scenes has its own. The parameters are the features divided by `rate`, so that under
    Adam the features move `rate` times as fast as other parameters.
    """

    def __init__(self, is_dense: bool, particles: int, channels: int, resolution: int, rate: float) -> None:
        super().__init__()
        self.is_dense, self.rate = is_dense, rate
        shape = (channels, *[resolution] * 3) if is_dense else (len(PLANES), channels, *[resolution] * 2)
        self.nodes = nn.Parameter(INIT_STD / rate * torch.randn(particles, *shape))

    def at(self, nodes: Tensor, points: Float[Tensor, "s n 3"]) -> Float[Tensor, "s c n"]:
        """Interpolate s scenes, rows of `nodes`, at points; beyond the cube they are those of its surface."""
        if self.is_dense:
            return self._sample(nodes, points[:, :, None, None])[..., 0, 0]
        across = torch.stack([points[..., list(pair)] for pair in PLANES], 1)  # (s, 3, n, 2)
        found = self._sample(nodes.flatten(0, 1), across.flatten(0, 1)[:, :, None])
        return found[..., 0].unflatten(0, (len(nodes), len(PLANES))).sum(1)

    def _sample(self, nodes: Tensor, places: Tensor) -> Tensor:
        found = F.grid_sample(nodes, places, padding_mode="border", align_corners=True)
        return found.mul_(self.rate)


class SceneField(nn.Module):
    """Density and colour of `particles` scenes, from features and a small network of each scene.

    density = softplus(raw + blob), where the blob is high at the centre, so that training begins with a soft
    ball (Lin et al. 2023, Magic3D); colour = sigmoid(raw). With `width` 0 the features are the raw values.
    """

    def __init__(self, sizes: SceneSizes, channels: int) -> None:
        super().__init__()
        self.sizes = sizes
        outputs = 1 + channels
        features = sizes.features if sizes.width else outputs
        is_dense = sizes.representation == "dense"
        self.grid = FeatureGrid(is_dense, sizes.particles, features, sizes.resolution, sizes.grid_rate)
        widths = [features, *[sizes.width] * sizes.layers, outputs] if sizes.width else []
        pairs = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(sizes.particles, outer, inner) * inner**-0.5) for inner, outer in pairs
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(sizes.particles, outer, 1)) for _, outer in pairs
        )

    def render(
        self,
        particle: Int64[Tensor, " b"],
        cameras: Cameras,
        size: Sequence[int],
        background: Float[Tensor, "b c"],
        shift: Tensor | None = None,
        light: Light | None = None,
        with_normals: bool = False,
    ) -> Render:
        """Render the scenes of these numbers by ray marching."""
        renderer = Renderer(self.sizes.samples, self.sizes.points_at_once)
        return renderer.render(self.of(particle), cameras, size, background, shift, light, with_normals)

    def of(self, particle: Int64[Tensor, " b"]) -> Field3D:
        """Return the scenes of these numbers as a function of points (b, n, 3)."""
        # A single scene is not copied for each of its views: their points are evaluated in one row.
        scenes = particle if self.sizes.particles > 1 else slice(None)
        nodes = self.grid.nodes[scenes]
        layers = [(w[scenes], b[scenes]) for w, b in zip(self.weights, self.biases, strict=True)]

        def field(points: Tensor) -> tuple[Tensor, Tensor]:
            flat = points.reshape(len(nodes), -1, 3)
            hidden = self.grid.at(nodes, flat)  # (s, channels, n): the matrix products run along the points
            for index, (weight, bias) in enumerate(layers):
                hidden = torch.baddbmm(bias, weight, hidden if index == 0 else hidden.relu_())
            blob = self.sizes.blob_density * (1 - flat.norm(dim=2) / self.sizes.blob_radius)
            density = F.softplus(hidden[:, 0] + blob)
            colour = hidden[:, 1:].sigmoid().transpose(1, 2)
            return density.view(points.shape[:2]), colour.view(*points.shape[:2], -1)

        return field
