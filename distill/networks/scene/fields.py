"""Trainable density and colour in the cube from -1 to 1: a dense grid, or three planes, of each particle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.scene.renderer import Field3D

if TYPE_CHECKING:
    from distill.networks.scene.sizes import SceneSizes

Representation = Literal["dense", "triplane"]
INIT_STD = 0.1
"""Standard deviation of the features before training."""
PLANES = ((0, 1), (0, 2), (1, 2))
"""Coordinates across each of three planes."""


class FeatureGrid(nn.Module):
    """Features at the nodes of a dense grid, or of three planes that are added, interpolated linearly.

    Each of `particles` scenes has its own. The parameters are the features divided by `rate`, so that under
    Adam the features move `rate` times as fast as other parameters.
    """

    def __init__(
        self, representation: Representation, particles: int, channels: int, resolution: int, rate: float
    ) -> None:
        super().__init__()
        self.rate = rate
        shape = (
            (channels, *[resolution] * 3)
            if representation == "dense"
            else (3, channels, resolution, resolution)
        )
        self.is_dense = representation == "dense"
        self.nodes = nn.Parameter(INIT_STD / rate * torch.randn(particles, *shape))

    def of(self, particle: Int64[Tensor, " b"]) -> Tensor:
        """Return the features of the scenes of these numbers."""
        return self.rate * self.nodes[particle]

    def at(self, nodes: Tensor, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n c"]:
        """Interpolate features from `of` at points; beyond the cube they are those of its surface."""
        options = {"padding_mode": "border", "align_corners": True}
        if self.is_dense:
            found = F.grid_sample(nodes, points[:, :, None, None], **options)  # type: ignore[arg-type]
            return found[..., 0, 0].transpose(1, 2)
        across = torch.stack([points[..., list(pair)] for pair in PLANES], 1)  # (b, 3, n, 2)
        found = F.grid_sample(nodes.flatten(0, 1), across.flatten(0, 1)[:, :, None], **options)  # type: ignore[arg-type]
        return found[..., 0].unflatten(0, (len(nodes), 3)).sum(1).transpose(1, 2)


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
        self.grid = FeatureGrid(
            sizes.representation, sizes.particles, features, sizes.resolution, sizes.grid_rate
        )
        widths = [features, *[sizes.width] * sizes.layers, outputs] if sizes.width else []
        pairs = list(zip(widths, widths[1:], strict=False))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(sizes.particles, inner, outer) * inner**-0.5) for inner, outer in pairs
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(sizes.particles, 1, outer)) for _, outer in pairs
        )

    def of(self, particle: Int64[Tensor, " b"]) -> Field3D:
        """Return the scenes of these numbers as a function of points (b, n, 3)."""
        nodes = self.grid.of(particle)
        layers = [(w[particle], b[particle]) for w, b in zip(self.weights, self.biases, strict=True)]

        def field(points: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.grid.at(nodes, points)
            for index, (weight, bias) in enumerate(layers):
                hidden = torch.baddbmm(bias, hidden if index == 0 else hidden.relu(), weight)
            blob = self.sizes.blob_density * (1 - points.norm(dim=2) / self.sizes.blob_radius)
            return F.softplus(hidden[..., 0] + blob), hidden[..., 1:].sigmoid()

        return field
