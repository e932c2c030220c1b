"""The folder of a scene's views: pictures, turntables, meshes, and the scene itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.networks.folder import load_generator
from distill.networks.scene.cameras import Cameras, Orbit, Ring
from distill.networks.scene.scene import SceneGenerator
from distill.publishing.scene.description import turntable_of
from distill.publishing.scene.folder import save_views
from distill.publishing.scene.mesh import extract_mesh
from distill.publishing.scene.turntable import render_views
from tests.helpers.small_scenes import CAMERAS, RADII, STEEPNESS, ball_scene

VIEWS = 5
SIZE = (18, 24)


@pytest.fixture(scope="module")
def scene() -> SceneGenerator:
    return ball_scene(particles=2)


@pytest.fixture(scope="module")
def folder(scene: SceneGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the views of two balls once, without ffmpeg."""
    out = tmp_path_factory.mktemp("views") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        notes = save_views(scene, VIEWS, SIZE, out, {"run": "some-run"})
    assert notes == ["turntable.mp4 is not written: there is no program ffmpeg on PATH"]
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("view", [0, 3])
def test_a_view_is_the_render_from_its_azimuth(folder: Path, scene: SceneGenerator, view: int) -> None:
    azimuth = torch.tensor([2 * math.pi * view / VIEWS])
    distance, angle = torch.tensor([3.0]), torch.tensor([math.radians(50)])
    camera = Cameras(azimuth, torch.zeros(1), distance, angle)
    expected = to_bytes(2 * scene.render(camera, torch.tensor([1]), *SIZE).colour - 1)[0].permute(1, 2, 0)
    found = pixels(folder / "particle-1" / "colour" / f"{view:03d}.png")
    assert np.abs(found.astype(int) - expected.numpy()).max() <= 1


def test_the_cameras_of_a_turntable_are_the_middles_of_those_of_training() -> None:
    orbit = turntable_of(Orbit(elevation=(-10, 40), distance=(2, 3), field_of_view=(40, 60)), 6)
    assert orbit == Ring(count=6, elevations=(15.0,), distance=2.5, field_of_view=50.0)
    ring = turntable_of(Ring(count=4, elevations=(0.0, 30.0), distance=2.0, field_of_view=45.0, turn=9.0), 6)
    assert ring == Ring(count=6, elevations=(15.0,), distance=2.0, field_of_view=45.0)


def test_a_gif_has_a_frame_for_each_view(folder: Path) -> None:
    with Image.open(folder / "particle-0" / "turntable.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (VIEWS, (24, 18), 0)
        assert gif.info["duration"] == 600  # five make three seconds
        gif.seek(2)
        frame = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(frame - pixels(folder / "particle-0" / "colour" / "002.png")).max() <= 16


def test_the_middle_of_a_ball_has_its_depth_and_its_normal() -> None:
    scene = ball_scene(samples=400)
    view = next(render_views(scene, 0, turntable_of(CAMERAS, 1), (17, 17), with_normals=True))
    # At a depth x below the surface the density is x STEEPNESS / radius, and the light that is left is
    # exp(-x^2 STEEPNESS / (2 radius)), whose integral is how far light goes in.
    further = math.sqrt(math.pi * RADII[0] / (2 * STEEPNESS))
    expected = 3.0 - RADII[0] + further
    assert view.depth[0, 0, 8, 8].item() == pytest.approx(expected, abs=2 / 400)
    assert torch.allclose(view.normals[0, :, 8, 8], torch.tensor([0.0, 0.0, 1.0]), atol=0.05)


@pytest.mark.parametrize("view", range(VIEWS))
def test_pictures_of_depth_and_normals_are_those_of_a_ball(folder: Path, view: int) -> None:
    record = json.loads((folder / "views.json").read_text())["particles"][0]
    white, black = record["depth_of_white"], record["depth_of_black"]
    assert white == pytest.approx(3 - RADII[0], abs=0.05)
    assert white + 0.8 * (black - white) < (3**2 - RADII[0] ** 2) ** 0.5  # where a ray grazes the ball
    depth = pixels(folder / "particle-0" / "depth" / f"{view:03d}.png")
    assert depth.shape == SIZE
    middle = black - depth[8:10, 11:13].mean() / 255 * (black - white)
    assert middle == pytest.approx(3 - RADII[0], abs=0.05)
    assert depth[0, 0] == 0
    assert depth[depth > 0].min() >= 50  # what is seen is brighter than what is not
    normals = pixels(folder / "particle-0" / "normals" / f"{view:03d}.png").astype(int)
    assert normals[8:10, 11:13].mean((0, 1)) == pytest.approx([127.5, 127.5, 250], abs=16)
    assert normals[9, 15, 0] > 200  # to the right
    assert normals[5, 12, 1] > 180  # upwards
    assert normals[0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize("particle", [0, 1])
@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_a_mesh_is_the_closed_surface_of_its_ball(folder: Path, particle: int, kind: str) -> None:
    mesh: Any = trimesh.load(folder / f"particle-{particle}" / f"mesh.{kind}", force="mesh", process=False)
    radius = RADII[particle]
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(
        4 / 3 * math.pi * radius**3, rel=0.03
    )  # more than 0: it faces outwards
    assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(radius, abs=0.01)
    assert np.abs(mesh.vertices.mean(0)).max() < 0.01
    record = json.loads((folder / "views.json").read_text())["particles"][particle]["mesh"]
    assert (record["vertices"], record["triangles"]) == (len(mesh.vertices), len(mesh.faces))


def test_vertices_have_the_colour_of_their_place(folder: Path) -> None:
    ply: Any = trimesh.load(folder / "particle-0" / "mesh.ply", process=False)
    expected = 1 / (1 + np.exp(-3 * ply.vertices))
    assert np.abs(ply.visual.vertex_colors[:, :3] / 255 - expected).max() < 0.01
    (glb,) = trimesh.load(folder / "particle-0" / "mesh.glb", process=False).geometry.values()
    linear = np.where(expected > 0.04045, ((expected + 0.055) / 1.055) ** 2.4, expected / 12.92)
    assert np.abs(glb.visual.vertex_attributes["color"][:, :3] / 255 - linear).max() < 0.02
    assert glb.visual.material.metallicFactor == 0


def test_a_mesh_is_closed_where_the_scene_goes_on_beyond_the_cube() -> None:
    scene = ball_scene()
    scene.field.grid.nodes[0, 0] = 3 * STEEPNESS  # solid everywhere
    mesh = extract_mesh(scene, 0)
    assert mesh is not None
    solid = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(8.0, rel=0.01)
    assert np.abs(mesh.vertices).max() == 1


def test_an_empty_scene_has_no_mesh(tmp_path: Path) -> None:
    scene = ball_scene(size=4)
    scene.field.grid.nodes[0, 0] = -1e6
    notes = save_views(scene, 2, (4, 4), tmp_path / "out", {})
    assert notes[-1] == "particle 0 has no mesh: expected density above 0, and no Gaussians"
    assert json.loads((tmp_path / "out" / "views.json").read_text())["particles"][0]["mesh"] is None
    assert not list((tmp_path / "out").rglob("mesh.*"))
    assert not pixels(tmp_path / "out" / "particle-0" / "depth" / "000.png").any()


def test_the_scene_reopens_with_equal_renders(folder: Path, scene: SceneGenerator) -> None:
    again = load_generator(folder / "scene")
    assert isinstance(again, SceneGenerator)
    ring, particle = CAMERAS.numbered(torch.tensor([3])), torch.tensor([1])
    assert torch.equal(
        again.render(ring, particle, 16, 16).colour, scene.render(ring, particle, 16, 16).colour
    )


def test_the_index_says_which_cameras_and_versions(folder: Path) -> None:
    index = json.loads((folder / "views.json").read_text())
    assert index["azimuths"] == [0, 72, 144, 216, 288]
    assert (index["elevation"], index["distance"], index["field_of_view"]) == (0, 3, 50)
    assert (index["run"], index["size"], index["scene"]) == ("some-run", [18, 24], "scene")
    assert index["versions"].keys() == {"scikit-image", "trimesh"}
    assert [(record["folder"], record["mp4"]) for record in index["particles"]] == [
        ("particle-0", None),
        ("particle-1", None),
    ]
    assert pixels(folder / "grid.png").shape == (6 * 19 + 1, 5 * 25 + 1, 3)


def test_a_grey_scene_has_grey_pictures_and_a_mesh_in_colour(tmp_path: Path) -> None:
    save_views(ball_scene(channels=1), 2, (8, 8), tmp_path / "out", {})
    assert pixels(tmp_path / "out" / "particle-0" / "colour" / "000.png").shape == (8, 8)
    ply: Any = trimesh.load(tmp_path / "out" / "particle-0" / "mesh.ply", process=False)
    assert (ply.visual.vertex_colors[:, 0] == ply.visual.vertex_colors[:, 2]).all()


def write_ffmpeg(folder: Path, script: str) -> str:
    """Write a program `ffmpeg` of a shell script, and return its folder."""
    folder.mkdir()
    (folder / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "ffmpeg").chmod(0o755)
    return str(folder)


def test_ffmpeg_gets_the_pixels_of_every_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'for last; do :; done; echo "$@" > "$last.txt"; /bin/cat > "$last"'
    monkeypatch.setenv("PATH", write_ffmpeg(tmp_path / "bin", script))
    assert save_views(ball_scene(), 2, (8, 6), tmp_path / "out", {}) == []
    place = tmp_path / "out" / "particle-0"
    frames = [pixels(place / "colour" / f"{number:03d}.png").tobytes() for number in range(2)]
    assert (place / "turntable.mp4").read_bytes() == b"".join(frames)
    assert "-f rawvideo -pix_fmt rgb24 -s 6x8" in (place / "turntable.mp4.txt").read_text()
    assert json.loads((tmp_path / "out" / "views.json").read_text())["particles"][0]["mp4"] == "turntable.mp4"


def test_a_failure_of_ffmpeg_is_said_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "/bin/cat > /dev/null; echo Unknown encoder >&2; exit 1"
    monkeypatch.setenv("PATH", write_ffmpeg(tmp_path / "bin", script))
    notes = save_views(ball_scene(), 2, (8, 8), tmp_path / "out", {})
    assert notes == ["turntable.mp4 is not written: ffmpeg says 'Unknown encoder'"]
    assert (tmp_path / "out" / "particle-0" / "mesh.glb").is_file()


def test_a_scene_that_is_not_finite_leaves_nothing(tmp_path: Path) -> None:
    scene = ball_scene()
    scene.field.grid.nodes[0, 1] = math.nan
    with pytest.raises(
        UserError, match=r"^particle 0, view 0: 1 of 1 images have values that are not finite"
    ):
        save_views(scene, 2, (8, 8), tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []
