"""The surface of a scene as a mesh of triangles with a colour at each vertex.

The surface lies where the scene absorbs half as much light as its solid parts do. It is closed, since nothing
is beyond the cube from -1 to 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from numpy import ndarray
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.networks.scene.fields import SceneField
from distill.networks.scene.renderer import Field3D
from distill.networks.scene.scene import SceneGenerator

THICKNESS = 0.1
"""Length, in units of the scene, whose share of absorbed light says how solid a point is."""
MIN_NODES, MAX_NODES = 64, 256
"""Minimum and maximum number of points along each side of the cube at which the density is computed."""


class Mesh(NamedTuple):
    """Triangles in coordinates of the scene, with their corners counter-clockwise as seen from outside."""

    vertices: Float[ndarray, "v 3"]
    triangles: Integer[ndarray, "t 3"]
    colours: Float[ndarray, "v 3"]
    """Colours of the vertices in [0, 1], as screens show them (sRGB)."""
    density: float
    """Density of the scene on the surface."""


def require_packages(flag: str) -> None:
    """Refuse a command line whose `flag` needs the packages of meshes if they are not installed."""
    try:
        import skimage.measure  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{flag}: scikit-image and trimesh are not installed; expected them from pip install '.[3d]'"
        ) from error


@torch.no_grad()
def extract_mesh(scene: SceneGenerator, particle: int) -> Mesh | None:
    """Return the surface of a particle by marching cubes; None if it has none, as Gaussians."""
    from skimage.measure import marching_cubes

    if not isinstance(scene.field, SceneField):
        return None
    device = scene.device
    field = scene.field.of(torch.tensor([particle], device=device))
    nodes = min(MAX_NODES, max(MIN_NODES, 2 * scene.sizes.resolution))
    solid = _solidity(field, nodes, device)
    total = solid.sum(dtype=np.float64)
    if total == 0:
        return None
    level = 0.5 * float((solid * solid).sum(dtype=np.float64) / total)
    # By `ascent` it turns triangles outwards in a right-handed system whose axes are those of the array.
    corners, triangles, _, _ = marching_cubes(np.pad(solid, 1), level, gradient_direction="ascent")
    vertices = np.clip(2 * (corners - 1) / (nodes - 1) - 1, -1, 1).astype(np.float32)
    _, colour = field(torch.from_numpy(vertices)[None].to(device))
    colours = colour[0].expand(-1, 3).cpu().numpy()
    return Mesh(vertices, triangles, colours, float(-np.log1p(-level) / THICKNESS))


def save_mesh(mesh: Mesh, folder: Path, name: str) -> list[str]:
    """Write a mesh as `name.ply` and `name.glb` into an existing folder, and return the files' names."""
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    def solid(**visual: Any) -> trimesh.Trimesh:
        return trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False, **visual)

    solid(vertex_colors=_bytes(mesh.colours)).export(folder / f"{name}.ply")
    # A mesh of glTF without a material is a metal, which viewers draw dark, and its colours are linear.
    matt = TextureVisuals(material=PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0))
    matt.vertex_attributes["color"] = _bytes(_to_linear(mesh.colours))
    solid(visual=matt).export(folder / f"{name}.glb", include_normals=True)
    return [f"{name}.ply", f"{name}.glb"]


def _solidity(field: Field3D, nodes: int, device: torch.device) -> Float32[ndarray, "n n n"]:
    """Return the share of light that is absorbed over `THICKNESS`, at the points of a grid (x, y, z)."""
    axis = torch.linspace(-1, 1, nodes, device=device)
    y, z = torch.meshgrid(axis, axis, indexing="ij")
    planes = []
    for x in axis:
        points = torch.stack([x.expand_as(y), y, z], 2).reshape(1, -1, 3)
        density, _ = field(points)
        planes.append(-torch.expm1(-THICKNESS * density[0]).reshape(nodes, nodes).cpu())
    return torch.stack(planes).numpy()


def _to_linear(colours: Float[ndarray, "v 3"]) -> Float[ndarray, "v 3"]:
    """Turn colours of a screen into amounts of light (IEC 61966-2-1)."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _bytes(colours: Float[ndarray, "v 3"]) -> ndarray:
    """Return bytes of red, green, blue and opacity, (v, 4)."""
    opaque = np.ones((len(colours), 1), dtype=np.float32)
    values: Tensor = torch.from_numpy(np.concatenate([colours, opaque], 1)).float()
    return to_bytes(2 * values[:, :, None, None] - 1)[:, :, 0, 0].numpy()
