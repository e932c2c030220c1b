"""A rasterizer of Gaussians in plain torch that takes the place of gsplat's, which needs CUDA.

Each Gaussian is projected by the linear approximation of the camera at its centre (Zwicker et al. 2002, EWA).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW_PASS = 0.3
"""Variance, in pixels squared, that gsplat adds to projected Gaussians."""
MAX_ALPHA = 0.999


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """Return R diag(scales^2) R^T, by the rotation of the axes with quaternion products, (n, 3, 3)."""
    real, vector = (quats / quats.norm(dim=1, keepdim=True)).split([1, 3], 1)
    axes = torch.eye(3, dtype=quats.dtype)[:, None].expand(3, len(quats), 3)
    vector = vector.expand_as(axes)
    turned = axes + 2 * torch.linalg.cross(vector, torch.linalg.cross(vector, axes) + real * axes)
    return torch.einsum("kni,nk,knj->nij", turned, scales.square(), turned)


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return features (1, h, w, k) and opacities (1, h, w, 1) of one view."""
    rotation, shift = viewmats[0, :3, :3], viewmats[0, :3, 3]
    x, y, z = (means @ rotation.T + shift).unbind(1)
    focal, centre = Ks[0].diagonal()[:2], Ks[0, :2, 2]
    zero = torch.zeros_like(z)
    rows = [focal[0] / z, zero, -focal[0] * x / z**2, zero, focal[1] / z, -focal[1] * y / z**2]
    jacobian = torch.stack(rows, 1).unflatten(1, (2, 3)) @ rotation
    spread = jacobian @ covariances(quats, scales) @ jacobian.mT + LOW_PASS * torch.eye(2, dtype=z.dtype)
    place = focal * torch.stack([x, y], 1) / z[:, None] + centre
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack([columns, rows], -1).flatten(0, 1) + 0.5 - place[:, None]
    power = torch.einsum("npi,nij,npj->np", offset, spread.inverse(), offset) / 2
    alpha = (opacities[:, None] * (-power).exp()).clamp_max(MAX_ALPHA)[z.argsort()]
    light = torch.cat([torch.ones_like(alpha[:1]), (1 - alpha).cumprod(0)])
    weights = (alpha * light[:-1]).T
    image = (weights @ colors[z.argsort()]).unflatten(0, (height, width))
    return image[None], (1 - light[-1]).view(1, height, width, 1), {}
