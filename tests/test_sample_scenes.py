"""`sample.py` on scenes: images from random cameras, and views from all sides."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from distill.config.errors import UserError
from distill.diffusion.sampling import seeded_noise
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_generator, save_model
from distill.networks.scene.scene import SceneGenerator
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.small_scenes import ball_scene


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with an export of two small scenes."""
    run = tmp_path_factory.mktemp("run")
    (run / "export").mkdir()
    save_model(ball_scene(particles=2, size=12), run / "export")
    return run


def test_one_view_is_counted_as_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "views"
    sample.main(["--run", str(run), "--views", "1", "--size", "4", "--out", str(out)])
    assert capsys.readouterr().out.splitlines()[-1] == f"1 view of 2 particles are in {out}"


def test_views_of_a_run_are_one_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "views"
    for views, size in (("3", ["--size", "8"]), ("2", [])):  # the second replaces the first
        sample.main(["--run", str(run), "--views", views, "--out", str(out), *size])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "turntable.mp4 is not written: there is no program ffmpeg on PATH",
        f"2 views of 2 particles are in {out}",
    ]
    assert sorted(path.name for path in out.iterdir()) == [
        "grid.png",
        "particle-0",
        "particle-1",
        "scene",
        "views.json",
    ]
    index = json.loads((out / "views.json").read_text())
    assert (index["run"], index["size"], len(index["azimuths"])) == (str(run), [12, 12], 2)
    assert index["versions"].keys() == {"distill", "torch", "scikit-image", "trimesh"}
    assert len(list((out / "particle-1" / "normals").iterdir())) == 2
    assert isinstance(load_generator(out / "scene"), SceneGenerator)


def test_views_have_the_size_that_was_asked_for(run: Path, tmp_path: Path) -> None:
    sample.main(["--run", str(run), "--views", "1", "--size", "9", "--out", str(tmp_path / "out")])
    with Image.open(tmp_path / "out" / "particle-0" / "colour" / "000.png") as image:
        assert image.size == (9, 9)


def test_images_of_a_scene_are_seen_from_the_cameras_of_their_noise(run: Path, tmp_path: Path) -> None:
    sample.main(
        ["--run", str(run), "--n", "4", "--seed", "5", "--batch-size", "3", "--out", str(tmp_path / "x")]
    )
    scene = ball_scene(particles=2, size=12)
    z = seeded_noise([5, 6, 7, 8], (9,))
    expected = scene.images(z, scene.condition_of(z)).permute(0, 2, 3, 1) * 127.5 + 127.5
    for number in range(4):
        found = np.asarray(Image.open(tmp_path / "x" / f"{number:06d}.png")).astype(float)
        assert np.abs(found - expected[number].numpy()).max() <= 1
    records = json.loads((tmp_path / "x" / "samples.json").read_text())["images"]
    assert [record["label"] for record in records] == scene.condition_of(z).label.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--labels 0-3", "--labels 0-3: the noise of a scene decides the view; leave the labels out"),
        ("--prompts cat", "--prompts: the noise of a scene decides the view; leave the prompts out"),
        ("--size 64", "--size: is of the views of a scene; expected --views beside it"),
        ("--views 0", "--views 0: expected at least 1"),
        ("--views 2 --size 1", "--size 1: expected at least 2"),
        ("--views 2 --n 3", "--n: does not go with --views, which shows a scene from all sides"),
        ("--views 2 --seed 0", "--seed: does not go with --views, which shows a scene from all sides"),
        ("--views 2 --churn 0", "--churn: does not go with --views, which shows a scene from all sides"),
        (
            "--views 2 --guidance 0",
            "--guidance: does not go with --views, which shows a scene from all sides",
        ),
        (
            "--views 2 --batch-size 5",
            "--batch-size: does not go with --views, which shows a scene from all sides",
        ),
        ("--views 2 --teacher", "--teacher: does not go with --views, which shows a scene from all sides"),
        ("--views 2 --labels 3", "--labels: does not go with --views, which shows a scene from all sides"),
        (
            "--views 2 --dtype float16",
            "--dtype: does not go with --views, which shows a scene from all sides",
        ),
        (
            "--views 2 --resolution 8",
            "resolution: is 8; expected none: {run}/export holds a model of one size",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    run: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        sample.main(["--run", str(run), "--out", str(tmp_path / "out"), *arguments.split()])
    assert str(error.value) == message.format(run=run)
    assert not (tmp_path / "out").exists()


def test_views_of_a_run_that_is_no_scene_are_refused(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    network = save_random_teacher(tmp_path / "teacher", multipliers=(1,))
    save_model(FewStepGenerator(network, 2.5), tmp_path / "export")
    with pytest.raises(UserError) as error:
        sample.main(["--run", str(tmp_path), "--views", "2", "--out", str(tmp_path / "out")])
    assert str(error.value) == f"--views: {tmp_path} makes images and is no scene; leave --views out"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["skimage", "trimesh"])
def test_views_need_the_packages_of_meshes(
    run: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        sample.main(["--run", str(run), "--views", "2", "--out", str(tmp_path / "out")])
    assert str(error.value) == (
        "--views: scikit-image and trimesh are not installed; expected them from pip install '.[3d]'"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text("{}")  # samples are no views
    with pytest.raises(UserError, match=r"is there and holds no views; expected a new folder$"):
        sample.main(["--run", str(run), "--views", "2", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["samples.json"]


def test_a_scene_that_is_not_finite_leaves_no_folder(tmp_path: Path) -> None:
    scene = ball_scene(size=8)
    scene.field.grid.nodes[0, 0] = torch.nan
    (tmp_path / "export").mkdir()
    save_model(scene, tmp_path / "export")
    with pytest.raises(
        UserError, match=r"^particle 0, view 0: 1 of 1 images have values that are not finite"
    ):
        sample.main(["--run", str(tmp_path), "--views", "2", "--out", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
