"""The images of the page are those of `sample.py`, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from distill.config.errors import UserError
from distill.data.sources.emoji import Settings as Emoji
from distill.diffusion.samplers import Heun
from distill.networks.folder import save_model
from distill.publishing.demo.inputs import Inputs
from distill.publishing.demo.networks import ShownNetwork, ShownRun, warm_up
from distill.publishing.demo.words import caption, cost, header, name_class
from distill.publishing.run_sources import class_names
from distill.storage.tensors import weights_sha256
from tests.helpers.demo_runs import class_run, opened, text_run
from tests.helpers.runs import write_finished_run
from tests.helpers.small_scenes import ball_scene


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    return opened(class_run(tmp_path_factory.mktemp("classes")))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    return opened(text_run(tmp_path_factory.mktemp("text")))


def comment(path: Path) -> dict[str, object]:
    with Image.open(path) as image:
        return json.loads(image.text["Comment"])


def assert_same_as_sample(files: list[Path], weights: str, arguments: list[str], out: Path) -> None:
    """Check pixels and comments of the page's files against those that `sample.py` writes."""
    sample.main(["--device", "cpu", "--out", str(out), *arguments])
    for index, file in enumerate(files):
        theirs = out / f"{index:06d}.png"
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(theirs)))
        expected = {**comment(theirs), "file": file.name, "weights_sha256": weights}
        assert comment(file) == expected


def test_a_students_images_of_classes_are_those_of_sample_py(classes: ShownRun, tmp_path: Path) -> None:
    made = classes.student.make(Inputs(range(7, 10), "2,5"), tmp_path / "images")
    assert [file.name for file in made.files] == [
        "student-seed-7-label-2.png",
        "student-seed-8-label-5.png",
        "student-seed-9-label-2.png",
    ]
    arguments = ["--run", str(classes.run), "--n", "3", "--seed", "7", "--labels", "2,5"]
    weights = weights_sha256(classes.student.network)
    assert_same_as_sample(list(made.files), weights, arguments, tmp_path / "out")


def test_a_teachers_images_are_those_of_sample_py(classes: ShownRun, tmp_path: Path) -> None:
    assert classes.teacher is not None
    made = classes.teacher.make(Inputs(range(2), "4"), tmp_path / "images", Heun(steps=3))
    arguments = ["--run", str(classes.run), "--n", "2", "--labels", "4", "--teacher", "--steps", "3"]
    assert made.evaluations == 5
    weights = classes.teacher.weights_sha256
    assert_same_as_sample(list(made.files), weights, arguments, tmp_path / "out")


def test_a_student_of_several_steps_says_so(tmp_path: Path) -> None:
    shown = opened(class_run(tmp_path / "two", steps=2), with_teacher=False)
    made = shown.student.make(Inputs(range(2)), tmp_path / "images")
    assert made.evaluations == 2
    assert "student of 2 steps" in header(shown)
    assert_same_as_sample(
        list(made.files),
        shown.student.weights_sha256,
        ["--run", str(shown.run), "--n", "2"],
        tmp_path / "out",
    )


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_images_of_a_prompt_are_those_of_sample_py(text: ShownRun, tmp_path: Path, role: str) -> None:
    shown: ShownNetwork = getattr(text, role)
    sampler = Heun(steps=2, guidance=3.5) if role == "teacher" else None
    made = shown.make(Inputs(range(3, 5), prompt="two dogs"), tmp_path / "images", sampler)
    arguments = ["--run", str(text.run), "--n", "2", "--seed", "3", "--prompts", "two dogs"]
    arguments += ["--teacher", "--steps", "2", "--guidance", "3.5"] if role == "teacher" else []
    assert_same_as_sample(list(made.files), shown.weights_sha256, arguments, tmp_path / "out")
    assert comment(made.files[0])["prompt"] == "two dogs"


def test_a_prompt_that_names_a_file_is_text(text: ShownRun, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("what nobody may read")
    _, prompts = Inputs(range(1), prompt=str(secret)).condition_for(text.student.network)
    assert prompts == [str(secret)]


def test_guidance_begins_where_the_students_loss_had_it(text: ShownRun, classes: ShownRun) -> None:
    assert text.teacher_guidance == 3.5
    assert classes.teacher_guidance == 1.0


def test_a_teacher_that_cannot_be_opened_is_left_out_with_the_reason(tmp_path: Path) -> None:
    run = class_run(tmp_path / "a")
    (tmp_path / "a" / "teacher").rename(tmp_path / "a" / "elsewhere")
    shown = opened(run)
    assert shown.teacher is None
    assert shown.notes == [
        f"The teacher is not shown: {tmp_path}/a/teacher: no such folder; expected a run, a checkpoint or an "
        "export."
    ]
    assert "no such folder" in header(shown)


def test_an_export_alone_has_no_teacher(classes: ShownRun) -> None:
    shown = opened(classes.run / "export")
    assert shown.teacher is None
    assert "is not a run; expected a folder with config.yaml" in shown.notes[0]


def test_no_teacher_is_opened_if_it_is_not_wanted(classes: ShownRun) -> None:
    shown = opened(classes.run, with_teacher=False)
    assert (shown.teacher, shown.notes, shown.teacher_guidance) == (None, [], None)


def test_a_scene_is_refused_with_the_command_that_shows_it(tmp_path: Path) -> None:
    save_model(ball_scene(), tmp_path)
    with pytest.raises(UserError) as error:
        opened(tmp_path)
    assert str(error.value) == (
        f"--run {tmp_path}: is a scene in three dimensions, not a model of images; "
        f"expected python sample.py --run {tmp_path} --views 24, which shows it from all sides"
    )


def test_the_first_batch_of_a_size_is_told_apart(classes: ShownRun, tmp_path: Path) -> None:
    shown = opened(classes.run, with_teacher=False)
    warm_up(shown, tmp_path)
    first, ten, again = (shown.student.make(Inputs(range(n)), tmp_path) for n in (3, 10, 3))
    assert (first.is_first, ten.is_first, again.is_first) == (True, False, False)
    assert "first batch of this size, which may take longer" in cost(first)
    assert "first batch" not in cost(again)


def test_images_that_are_not_finite_are_refused(classes: ShownRun, tmp_path: Path) -> None:
    shown = opened(classes.run, with_teacher=False)
    for parameter in shown.student.network.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"^The student: 2 of 2 images have values that are not finite"):
        shown.student.make(Inputs(range(2)), tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_classes_are_named_by_the_folders_of_the_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "data" / name / "0.png")
    data = {"name": "image_folder", "path": str(tmp_path / "data")}
    run = write_finished_run(tmp_path / "run", {"name": "native", "path": "x"}, data=data)
    assert class_names(run) == ("cat", "dog")
    without = write_finished_run(tmp_path / "other", {"name": "native", "path": "x"}, data={"name": "digits"})
    assert class_names(without) == ()


def test_classes_of_emoji_are_numbered_style_by_style() -> None:
    settings = Emoji(styles=("noto", "3d"), categories=("food", "animals"))
    assert settings.class_names() == (
        "food, noto style",
        "animals, noto style",
        "food, 3d style",
        "animals, 3d style",
    )
    assert Emoji(condition="captions").class_names() == ()


def test_captions_say_network_seed_and_condition() -> None:
    assert caption({"teacher": False, "seed": 3, "label": 1}, {1: "dog"}) == "student, seed 3: class 1, dog"
    teacher = {"teacher": True, "sampler": {"steps": 18}, "seed": 3, "label": None, "prompt": "a cat"}
    assert caption(teacher, {}) == "teacher, 18 steps, seed 3: a cat"
    assert caption({"teacher": False, "seed": 0, "label": None}, {}) == "student, seed 0"
    assert name_class(7, {}) == "class 7"
