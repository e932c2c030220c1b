"""The folder of a scene's views: pictures, turntables and meshes of every particle, and the scene itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image

from distill.config.errors import writing_to
from distill.config.progress import ProgressBar
from distill.data.images import decode, make_grid, to_pil
from distill.networks.folder import save_model
from distill.networks.scene.cameras import Ring
from distill.networks.scene.scene import SceneGenerator
from distill.publishing.scene.animation import save_gif, save_mp4
from distill.publishing.scene.description import turntable_of
from distill.publishing.scene.mesh import extract_mesh, save_mesh
from distill.publishing.scene.pictures import depth_range, draw_colour, draw_depth, draw_normals, seen_depth
from distill.publishing.scene.turntable import render_views
from distill.storage.files import new_folder, write_json
from distill.storage.provenance import version

INDEX = "views.json"
KINDS = ("colour", "depth", "normals")
"""Folders of pictures of a particle."""
SHOWN = 8
"""Maximum number of views in `grid.png`."""


class MeshRecord(TypedDict):
    """A mesh in `views.json`."""

    files: list[str]
    vertices: int
    triangles: int
    density: float


class ParticleRecord(TypedDict):
    """A particle in `views.json`."""

    folder: str
    gif: str
    mp4: str | None
    depth_of_white: float
    depth_of_black: float
    mesh: MeshRecord | None


def save_views(
    scene: SceneGenerator, views: int, size: tuple[int, int], out: Path, origin: dict[str, Any]
) -> list[str]:
    """Write views of every particle as one whole folder, which replaces `out`.

    Return a line about each part that could not be made. `origin` says how the scene was opened, and goes to
    `views.json`.
    """
    ring = turntable_of(scene.sizes.cameras, views)
    records: list[ParticleRecord] = []
    notes: list[str] = []
    with writing_to(f"--out {out}:"), new_folder(out) as folder:
        for particle in range(scene.sizes.particles):
            place = folder / f"particle-{particle}"
            depths = _save_pictures(scene, particle, ring, size, place)
            records.append(_save_objects(scene, particle, views, place, depths, notes))
        _save_grid(folder, records, views)
        (folder / "scene").mkdir()
        save_model(scene, folder / "scene")
        write_json(folder / INDEX, _index(ring, size, origin, records))
    return notes


def _save_pictures(
    scene: SceneGenerator, particle: int, ring: Ring, size: tuple[int, int], place: Path
) -> tuple[float, float]:
    """Write each view's colours, depth and normals as PNG files, such as `depth/003.png`.

    Return the depths of white and of black, which all views share.
    """
    for kind in KINDS:
        (place / kind).mkdir(parents=True)
    depths = []
    rendered = render_views(scene, particle, ring, size, with_normals=True)
    with ProgressBar(f"particle {particle}", ring.view_count, "views") as bar:
        for number, view in enumerate(rendered):
            to_pil(draw_colour(view)).save(place / "colour" / f"{number:03d}.png")
            to_pil(draw_normals(view)).save(place / "normals" / f"{number:03d}.png")
            depths.append(seen_depth(view))
            bar.update()
    white, black = depth_range(torch.stack(depths))
    for number, picture in enumerate(draw_depth(torch.stack(depths), white, black)):
        to_pil(picture).save(place / "depth" / f"{number:03d}.png")
    return white, black


def _save_objects(
    scene: SceneGenerator,
    particle: int,
    views: int,
    place: Path,
    depths: tuple[float, float],
    notes: list[str],
) -> ParticleRecord:
    """Write the turntable of a particle's pictures, and its mesh, and return its record in `views.json`.

    `depths` are those of white and black. Lines about parts that cannot be made are added to `notes`.
    """
    save_gif(_frames(place, views), place / "turntable.gif")
    problem = save_mp4(_frames(place, views), views, place / "turntable.mp4")
    if problem is not None and problem not in notes:
        notes.append(problem)
    mesh = extract_mesh(scene, particle)
    record: MeshRecord | None = None
    if mesh is None:
        notes.append(f"particle {particle} has no mesh: expected density above 0, and no Gaussians")
    else:
        record = {
            "files": save_mesh(mesh, place, "mesh"),
            "vertices": len(mesh.vertices),
            "triangles": len(mesh.triangles),
            "density": mesh.density,
        }
    has_video = problem is None
    return {
        "folder": place.name,
        "gif": "turntable.gif",
        "mp4": "turntable.mp4" if has_video else None,
        "depth_of_white": depths[0],
        "depth_of_black": depths[1],
        "mesh": record,
    }


def _frames(place: Path, views: int) -> Iterator[Image.Image]:
    """Open the colours of a particle's views, in their order."""
    for number in range(views):
        with Image.open(place / "colour" / f"{number:03d}.png") as image:
            yield image.copy()


def _save_grid(folder: Path, records: Iterable[ParticleRecord], views: int) -> None:
    """Write `grid.png`: for each particle a row of colours, one of depths and one of normals."""
    columns = min(SHOWN, views)
    numbers = [index * views // columns for index in range(columns)]
    paths = [
        folder / record["folder"] / kind / f"{number:03d}.png"
        for record in records
        for kind in KINDS
        for number in numbers
    ]
    pixels = torch.stack([decode(path.read_bytes(), "RGB") for path in paths])
    make_grid(pixels, columns).save(folder / "grid.png")


def _index(
    ring: Ring, size: tuple[int, int], origin: dict[str, Any], records: list[ParticleRecord]
) -> dict[str, Any]:
    """Return the content of `views.json`; angles are in degrees."""
    packages = {name: version(name) for name in ("scikit-image", "trimesh")}
    return {
        **origin,
        "versions": {**origin.get("versions", {}), **packages},
        "size": list(size),
        "azimuths": [360 * number / ring.count for number in range(ring.count)],
        "elevation": ring.elevations[0],
        "distance": ring.distance,
        "field_of_view": ring.field_of_view,
        "scene": "scene",
        "particles": records,
    }
