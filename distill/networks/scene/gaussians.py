"""Scenes of Gaussians that are drawn by splatting with gsplat (Kerbl et al. 2023), on CUDA only.

Gaussian i holds back the share alpha_i = opacity_i exp(-d^T S^-1 d / 2) of a pixel's light, where d is the
pixel's offset from the Gaussian's projection, and S its projected covariance. From the nearest Gaussian on,
C = sum_i alpha_i prod_{j<i} (1 - alpha_j) c_i.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config.errors import UserError
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.renderer import MIN_OPACITY, Light, Render, in_float32

if TYPE_CHECKING:
    from distill.networks.scene.sizes import SceneSizes

Rasterizer = Callable[..., tuple[Tensor, Tensor, Any]]
"""`gsplat.rasterization`: from means, quats, scales, opacities, colors, viewmats, Ks, width and height to
features (1, h, w, k), opacities (1, h, w, 1) and more."""
RATES = {"means": 1.0, "log_scales": 5.0, "quaternions": 5.0, "opacity": 50.0, "colour": 10.0}
"""Learning rates as multiples of 1e-3 (Tang et al. 2024, DreamGaussian)."""
INIT_OPACITY = 0.1
"""Opacity of each Gaussian before training."""
INIT_STD = 0.1
"""Standard deviation of the logits of colours before training."""


class GaussianField(nn.Module):
    """Anisotropic Gaussians of `particles` scenes, which begin evenly spread over a ball.

    The parameters are divided by their `RATES`, so that under Adam with a learning rate of 1e-3 they move as
    published.
    """

    def __init__(self, sizes: SceneSizes, channels: int, rasterize: Rasterizer | None = None) -> None:
        super().__init__()
        self.rasterize = rasterize or load_rasterizer()
        shape = (sizes.particles, sizes.gaussians)
        directions = F.normalize(torch.randn(*shape, 3), dim=2)
        spacing = sizes.blob_radius * sizes.gaussians ** (-1 / 3)
        values = {
            "means": sizes.blob_radius * directions * torch.rand(*shape, 1) ** (1 / 3),
            "log_scales": torch.full((*shape, 3), spacing).log(),
            "quaternions": torch.randn(*shape, 4),
            "opacity": torch.full(shape, INIT_OPACITY).logit(),
            "colour": INIT_STD * torch.randn(*shape, channels),
        }
        self.raw = nn.ParameterDict(
            {name: nn.Parameter(value / RATES[name]) for name, value in values.items()}
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
        """Render the scenes of these numbers at a height and a width in pixels; `shift` is not needed.

        The depth and the normal of a Gaussian are those of its centre and of its shortest axis, on the side
        of the camera, so that nothing faces away.
        """
        height, width = size
        with in_float32(particle.device):
            gaussians = self.of(particle, cameras, light)
            views = zip(view_matrices(cameras), intrinsics(cameras, height, width), strict=True)
            drawn = []
            for row, (view, matrix) in zip(zip(*gaussians, strict=True), views, strict=True):
                features, opacity, _ = self.rasterize(*row, view[None], matrix[None], width, height)
                drawn.append(torch.cat([features, opacity], 3))
        image = torch.cat(drawn).permute(0, 3, 1, 2)
        colour, depth, normals, opacity = image.split([background.shape[1], 1, 3, 1], 1)
        depth = depth * ray_lengths(cameras, height, width) / opacity.clamp_min(MIN_OPACITY)
        colour = colour + (1 - opacity) * background[:, :, None, None]
        if not with_normals and light is None:
            normals = torch.zeros_like(normals)
        return Render(colour, opacity, depth, normals, facing_away=torch.zeros_like(opacity))

    def of(self, particle: Int64[Tensor, " b"], cameras: Cameras, light: Light | None) -> tuple[Tensor, ...]:
        """Return the means, quaternions, scales, opacities and features of the scenes of these numbers.

        The features are the lit colour, the distance along the camera's axis, and the normal: (b, n, c + 4).
        """
        values = {name: RATES[name] * value[particle] for name, value in self.raw.items()}
        means, quaternions = values["means"], values["quaternions"]
        scales, colour = values["log_scales"].exp(), values["colour"].sigmoid()
        normals = facing_normals(means, quaternions, scales, camera_positions(cameras))
        if light is not None:
            lit = (normals @ light.direction[..., None]).clamp_min(0)
            share = light.share[:, None, None]
            colour = colour * (1 - share + share * lit)
        along = cameras.distance[:, None, None] - means @ cameras.axes()[2][..., None]
        features = torch.cat([colour, along, normals], 2)
        return means, quaternions, scales, values["opacity"].sigmoid(), features


def camera_positions(cameras: Cameras) -> Float[Tensor, "b 3"]:
    """Return the places of cameras."""
    return cameras.distance[:, None] * cameras.axes()[2]


def view_matrices(cameras: Cameras) -> Float[Tensor, "b 4 4"]:
    """Return the maps from the scene to coordinates of each camera: right, down and forwards."""
    right, up, backwards = cameras.axes()
    rotation = torch.stack([right, -up, -backwards], 1)
    shift = -rotation @ camera_positions(cameras)[..., None]
    last = rotation.new_tensor([0, 0, 0, 1]).expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, shift], 2), last], 1)


def intrinsics(cameras: Cameras, height: int, width: int) -> Float[Tensor, "b 3 3"]:
    """Return the maps from coordinates of each camera to pixels; the first pixel is centred at (0.5, 0.5)."""
    focal = height / 2 / (cameras.field_of_view / 2).tan()
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, one * width / 2, zero, focal, one * height / 2, zero, zero, one]
    return torch.stack(rows, 1).unflatten(1, (3, 3))


def ray_lengths(cameras: Cameras, height: int, width: int) -> Float[Tensor, "b 1 h w"]:
    """Return the distance along the ray of each pixel for one unit along the camera's axis."""
    _, directions = cameras.rays(height, width)
    along = -(directions @ cameras.axes()[2][..., None])
    return (1 / along).transpose(1, 2).unflatten(2, (height, width))


def rotations(quaternions: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Return the matrices of rotations by quaternions of any length, the real part first."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def facing_normals(
    means: Float[Tensor, "b n 3"],
    quaternions: Float[Tensor, "b n 4"],
    scales: Float[Tensor, "b n 3"],
    positions: Float[Tensor, "b 3"],
) -> Float[Tensor, "b n 3"]:
    """Return the shortest axis of each Gaussian, on the side that faces a camera at this position."""
    shortest = scales.argmin(2)[..., None, None].expand(*scales.shape, 1)
    axis = rotations(quaternions).gather(3, shortest)[..., 0]
    is_away = ((positions[:, None] - means) * axis).sum(2, keepdim=True) < 0
    return torch.where(is_away, -axis, axis)


def load_rasterizer() -> Rasterizer:
    """Return gsplat's rasterizer."""
    try:
        rasterize = importlib.import_module("gsplat").rasterization
    except ImportError as error:
        raise UserError(
            "representation: gaussians needs gsplat, which is not installed; "
            "expected it from pip install '.[gaussians]', or dense or triplane"
        ) from error
    if not torch.cuda.is_available():
        raise UserError("representation: gaussians needs a CUDA device; expected dense or triplane here")
    return rasterize
