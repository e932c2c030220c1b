"""SDS finds the mean of known scenes; VSD and Uni-Instruct find every scene, with particles in proportion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill import load_generator
from distill.eval.scene.known_scenes import compare_with_known, render_known, scenes_of
from distill.eval.scene.psnr import psnr
from distill.eval.scene.views import held_out_views, render_particles
from tests.helpers.runs import read_run, train_run

pytestmark = pytest.mark.slow
BATCH = 8


def particles_of(method: str, folder: Path) -> tuple[Tensor, Tensor]:
    """Train a preset, and return the images of its particles and of the true scenes from held-out cameras."""
    run = train_run(Path(f"configs/3d/lab_{method}.yaml"), "--run_dir", str(folder), "--device", "cpu")
    scene = load_generator(run)
    views = held_out_views(scene.sizes.cameras, None)
    truth = render_known(scenes_of(read_run(run / "config.yaml")), views, *scene.render_size, BATCH)
    return render_particles(scene, views, BATCH), truth


def test_sds_drives_all_particles_to_the_mean_of_the_scenes(tmp_path: Path) -> None:
    images, truth = particles_of("sds", tmp_path)
    to_mean = psnr(images, truth.mean(0)).mean(1)
    to_scenes = torch.stack([psnr(particle, truth).mean(1) for particle in images])
    assert (to_mean > to_scenes.amax(1) + 3).all()
    assert (to_scenes < 20).all()


@pytest.mark.parametrize("method", ["vsd", "uni_instruct"])
def test_vsd_and_uni_instruct_find_every_scene_with_a_third_of_the_particles(
    method: str, tmp_path: Path
) -> None:
    images, truth = particles_of(method, tmp_path)
    found = compare_with_known(images, truth, ("snowman", "house", "tree"), 20.0)
    assert found["mass"] == pytest.approx({"snowman": 1 / 3, "house": 1 / 3, "tree": 1 / 3})
    assert min(found["nearest_psnr"]) > 22
