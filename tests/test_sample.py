"""`sample.py`: the files that it writes, and its messages."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sample
from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_teacher
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import save_model
from distill.students.mlp import Student as MLP
from distill.teachers.gaussian_mixture import Settings as GaussianMixture
from distill.types import Condition
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import ENVIRONMENT, write_finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run's folder with a teacher and a student of random weights."""
    run = tmp_path_factory.mktemp("run")
    network = save_random_teacher(run / "teacher", multipliers=(1,))
    (run / "export").mkdir()
    save_model(FewStepGenerator(network, 2.5), run / "export")
    return write_finished_run(run, {"name": "native", "path": str(run / "teacher")})


def pixels(folder: Path, index: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{index:06d}.png"))


@pytest.mark.parametrize("teacher", [[], ["--teacher", "--steps", "3"]])
def test_images_grid_and_index_are_written_and_an_image_depends_on_its_seed_alone(
    run: Path, tmp_path: Path, teacher: list[str]
) -> None:
    many, one = tmp_path / "many", tmp_path / "one"
    arguments = f"--run {run} --n 5 --labels 2-4 --seed 7 --batch-size 2 --out {many}"
    sample.main([*arguments.split(), *teacher])
    sample.main(["--run", str(run), "--n", "1", "--labels", "4", "--seed", "9", "--out", str(one), *teacher])
    index = json.loads((many / "samples.json").read_text())
    assert [record["seed"] for record in index["images"]] == [7, 8, 9, 10, 11]
    assert [record["label"] for record in index["images"]] == [2, 3, 4, 2, 3]
    assert index["evaluations"] == (5 if teacher else 1)
    assert sorted(path.name for path in many.iterdir()) == [
        *(f"{i:06d}.png" for i in range(5)),
        "grid.png",
        "samples.json",
    ]
    assert pixels(many, 2).shape == (8, 8)
    # A batch of another size may round in another way.
    assert np.abs(pixels(many, 2).astype(int) - pixels(one, 0)).max() <= 1
    assert not np.array_equal(pixels(many, 0), pixels(many, 3))


def test_seeds_may_be_listed_one_by_one(run: Path, tmp_path: Path) -> None:
    sample.main(
        ["--run", str(run), "--seeds", "9, 3,11-12", "--labels", "4,5", "--out", str(tmp_path / "some")]
    )
    sample.main(
        ["--run", str(run), "--n", "12", "--labels", "5,4", "--seed", "1", "--out", str(tmp_path / "all")]
    )
    records = json.loads((tmp_path / "some" / "samples.json").read_text())["images"]
    assert [(record["seed"], record["label"]) for record in records] == [(9, 4), (3, 5), (11, 4), (12, 5)]
    # Both have seed 3 and label 5.
    assert np.abs(pixels(tmp_path / "some", 1).astype(int) - pixels(tmp_path / "all", 2)).max() <= 1


@pytest.mark.parametrize("teacher", [[], ["--teacher", "--steps", "3", "--churn", "2.5"]])
def test_an_image_is_made_again_from_its_metadata(run: Path, tmp_path: Path, teacher: list[str]) -> None:
    arguments = ["--run", str(run), "--device", "cpu", *teacher]
    sample.main([*arguments, "--n", "3", "--seed", "7", "--labels", "2-4", "--out", str(tmp_path / "first")])
    with Image.open(tmp_path / "first" / "000002.png") as image:
        noted = json.loads(image.text["Comment"])
    expected = {
        "run": str(run),
        "teacher": bool(teacher),
        "evaluations": 5 if teacher else 1,
        "dtype": "float32",
        "device": "cpu",
        "size": [8, 8],
        "versions": {name: importlib.metadata.version(name) for name in ("distill", "torch")},
        "file": "000002.png",
        "seed": 9,
        "label": 4,
    }
    if teacher:
        expected["sampler"] = Heun(steps=3, churn=2.5).model_dump()
    assert noted == expected
    index = json.loads((tmp_path / "first" / "samples.json").read_text())
    assert {**index, **index["images"][2]} == {**noted, "images": index["images"]}
    again = [f"--run={noted['run']}", f"--seeds={noted['seed']}", f"--labels={noted['label']}"]
    again += [f"--dtype={noted['dtype']}", f"--device={noted['device']}"]
    if noted["teacher"]:
        steps, churn = noted["sampler"]["steps"], noted["sampler"]["churn"]
        again += ["--teacher", f"--steps={steps}", f"--churn={churn}"]
    sample.main([*again, "--out", str(tmp_path / "again")])
    assert np.abs(pixels(tmp_path / "again", 0).astype(int) - pixels(tmp_path / "first", 2)).max() <= 1


def test_the_grid_shows_ten_in_a_row(run: Path, tmp_path: Path) -> None:
    sample.main(["--run", str(run), "--n", "13", "--out", str(tmp_path / "out")])
    grid = np.asarray(Image.open(tmp_path / "out" / "grid.png"))
    assert grid.shape == (4 * (2 * 9 + 1), 4 * (10 * 9 + 1))  # four times enlarged, with a pixel between
    assert np.array_equal(grid[40:72:4, 76:108:4], pixels(tmp_path / "out", 12))


def test_earlier_samples_are_replaced_whole(run: Path, tmp_path: Path) -> None:
    for count in ("3", "2"):
        sample.main(["--run", str(run), "--n", count, "--out", str(tmp_path / "x")])
    assert len(list((tmp_path / "x").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--teacher", "runs/x"],
            "--teacher runs/x: stands beside --run; expected one of them, or --teacher without a path",
        ),
        (["--labels", "0-10"], "--labels 0-10: 10 is out of range; expected labels from 0 to 9"),
        (["--labels", "5-3"], "--labels 5-3: '5-3' is an empty range; expected the smaller number first"),
        (["--seeds", "1,two"], "--seeds 1,two: 'two' is no seed; expected numbers such as 3, 0-9 or 1,3,5"),
        (
            ["--seeds", "1", "--n", "3"],
            "--seeds: says itself which seeds and how many; leave --seed and --n out",
        ),
        (
            ["--seeds", "1", "--seed", "0"],
            "--seeds: says itself which seeds and how many; leave --seed and --n out",
        ),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--seed", str(2**62)], f"--seed {2**62}: expected at least 0 and less than 2^62"),
        (
            ["--labels", "0-9999999999"],
            "--labels 0-9999999999: 9999999999 is out of range; expected labels from 0 to 9",
        ),
        (["--steps", "4"], "--steps: is of the teacher's sampler; expected --teacher beside it"),
        (["--guidance", "3"], "--guidance: is of the teacher's sampler; expected --teacher beside it"),
        (["--teacher", "--guidance", "nan"], "--guidance: expected a finite number; found nan"),
        (["--teacher", "--steps", "0"], "--steps: expected greater than or equal to 1; found 0"),
        (["--labels", "five"], "--labels five: 'five' is no label"),
        (["--n", "0"], "--n 0: expected at least 1"),
        (["--sed", "1"], "'--sed': unknown argument; did you mean '--seed'?"),
        (["--n", "many"], "argument --n: invalid int value: 'many'"),
        (["--run", "nowhere"], "nowhere: no such folder"),
        (["--resolution", "16"], "resolution: is 16; "),
        (["--resolution", "0"], "--resolution 0: expected at least 1"),
        (
            ["--resolution", "16", "--teacher"],
            "--resolution 16: teachers of 'native' make images of one size; leave it out",
        ),
        (["--dtype", "double"], "argument --dtype: invalid choice: 'double'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        sample.main(["--run", str(run), "--out", str(tmp_path / "out"), *arguments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["checkpoint of a run that goes on", "export", "checkpoint"])
def test_a_trained_teacher_is_sampled_in_many_steps_without_being_called_one(
    tmp_path: Path, place: str
) -> None:
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-00000002"
    folder = {"export": run / "export"}.get(place, checkpoint)
    folder.parent.mkdir(parents=True)
    teacher = save_random_teacher(folder)
    (run / "config.yaml").write_text(
        yaml.safe_dump({"task": "train_teacher", "run_dir": str(run), "steps": 4, "data": {"name": "digits"}})
    )
    given = folder if place == "checkpoint" else run
    arguments = ["--n", "2", "--labels", "3,4", "--steps", "2", "--guidance", "1", "--device", "cpu"]
    expected = sample_teacher(teacher, [0, 1], Condition(torch.tensor([3, 4])), Heun(steps=2))
    for index, source in enumerate((["--run"], ["--teacher"], ["--teacher", "--run"])):
        out = tmp_path / f"out-{index}"
        sample.main([*source, str(given), *arguments, "--out", str(out)])
        noted = json.loads((out / "samples.json").read_text())
        assert (noted["teacher"], noted["evaluations"], noted["run"]) == (True, 3, str(given))
        for image, wanted in enumerate(to_bytes(expected)):
            assert np.array_equal(pixels(out, image), wanted[0])


def test_a_model_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^expected --run with a run, or --teacher with a teacher$"):
        sample.main(["--out", str(tmp_path / "out")])


def test_vectors_are_not_sampled_as_images(tmp_path: Path) -> None:
    teacher = GaussianMixture(components=({"mean": (1.0, 0.5), "std": 0.3},)).load()
    save_model(MLP(width=8).build(teacher, 80.0), tmp_path)
    with pytest.raises(
        UserError,
        match=rf"^--run {tmp_path}: its networks make vectors; "
        r"expected images, python -m eval measures vectors$",
    ):
        sample.main(["--run", str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_folder_of_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is there and holds no samples"):
        sample.main(["--run", str(run), "--n", "1", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_refusal_ends_with_exit_code_two(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "sample.py", "--run", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / 'none'}: no such folder; expected a run, a checkpoint or an export\n"
    )
