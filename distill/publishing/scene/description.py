"""The description of scenes in a folder, read without their weights, and the cameras of their turntables."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from distill.config.errors import UserError, reading
from distill.networks.folder import CONFIG, resolve_folder
from distill.networks.scene.cameras import Orbit, Ring
from distill.networks.scene.sizes import SceneSizes
from distill.storage.files import read_mapping

SCENE = "SceneGenerator"
"""Class of scenes in `config.json`."""


def read_scene(path: Path) -> SceneSizes | None:
    """Read the sizes of the scenes in a run, a checkpoint or an export; None if it holds no scene."""
    try:
        folder = resolve_folder(path)
    except UserError:  # a run that has only begun
        return None
    network = read_mapping(folder / CONFIG).get("network")
    if not isinstance(network, dict) or network.get("class") != SCENE:
        return None
    with reading(folder / CONFIG):
        return SceneSizes.model_validate(network["sizes"])


def say_particles(sizes: SceneSizes) -> str:
    """Say in words how many scenes there are."""
    if sizes.particles == 1:
        return "a scene in three dimensions"
    return f"{sizes.particles} scenes in three dimensions"


def turntable_name(particle: int) -> str:
    """Name the turntable of a particle in an export."""
    return f"turntable-{particle}.gif"


def turntable_of(cameras: Orbit | Ring, views: int) -> Ring:
    """Return evenly spaced cameras around the scene, the first in front.

    Elevation, distance and angle of view are the middles of those of training.
    """
    if isinstance(cameras, Ring):
        elevation, distance, angle = fmean(cameras.elevations), cameras.distance, cameras.field_of_view
    else:
        elevation, distance, angle = map(fmean, (cameras.elevation, cameras.distance, cameras.field_of_view))
    return Ring(count=views, elevations=(elevation,), distance=distance, field_of_view=angle)
