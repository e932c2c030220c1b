"""`python -m eval` from its arguments to its files, and its complaints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import distill
from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher
from distill.eval.__main__ import main
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import save_model
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from tests.helpers.image_sets import pixels_sha256, save_held_out_digits
from tests.helpers.runs import write_finished_run

TEACHER_CONFIG = "task: train_teacher\nrun_dir: {run}\ndata: {{name: digits}}\nsteps: 1\n"


def save_teacher(folder: Path, resolution: int = 8, label_count: int = 10) -> UNet:
    """A teacher with random weights everywhere, also where an untrained network has zeros."""
    torch.manual_seed(0)
    network = UNet(
        UNetConfig(resolution, 1, label_count, sizes=UNetSizes(width=8, multipliers=(1,), blocks=1))
    ).eval()
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    save_model(network, folder)
    return network


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run of tiny networks."""
    teacher = save_teacher(tmp_path / "teacher")
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    save_model(FewStepGenerator(teacher, 2.5), export)
    native = {"name": "native", "path": str(tmp_path / "teacher")}
    return write_finished_run(tmp_path / "run", native, data={"name": "digits"})


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real held-out digits as an array file."""
    return save_held_out_digits(tmp_path_factory.mktemp("array") / "held_out.npz")


def hash_of(images: torch.Tensor) -> str:
    return pixels_sha256(to_bytes(images))


def test_student_and_teacher_of_a_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--run", str(run_dir), "--n", "70", "--seed", "3", "--batch-size", "32"])
    results = json.loads((run_dir / "eval.json").read_text())
    generator, teacher = distill.load_generator(run_dir), distill.load_teacher(run_dir.parent / "teacher")
    student_images = sample_generator(generator, range(3, 73), balanced_labels(70, 10), 32)
    teacher_images = sample_teacher(teacher, range(3, 73), balanced_labels(70, 10), batch_size=32)
    assert results["hashes"]["student"] == hash_of(student_images)
    assert results["hashes"]["teacher"] == hash_of(teacher_images)
    assert (results["n"], results["seed"], results["warnings"]) == (70, 3, [])
    times = results["sampling"]
    assert (times["batch_size"], times["teacher_evaluations"]) == (32, 35)
    assert times["speedup"] == pytest.approx(times["teacher_ms_per_image"] / times["student_ms_per_image"])
    assert times["speedup"] > 3
    grid = np.asarray(Image.open(run_dir / "eval" / "student.png"))
    assert np.array_equal(grid[4:36:4, 4:36:4], to_bytes(student_images)[0, 0].numpy())
    grid = np.asarray(Image.open(run_dir / "eval" / "teacher.png"))
    assert np.array_equal(grid[4:36:4, 40:72:4], to_bytes(teacher_images)[1, 0].numpy())
    assert f"{results['student']['fd_pixel']:.4f}" in capsys.readouterr().out


def test_without_the_teacher_what_an_earlier_evaluation_left_goes(run_dir: Path) -> None:
    main(["--run", str(run_dir), "--n", "20"])
    main(["--run", str(run_dir), "--n", "20", "--no-teacher", "--batch-size", "1000"])
    results = json.loads((run_dir / "eval.json").read_text())
    assert results["sampling"]["batch_size"] == 256  # no batch of this size is larger
    assert "teacher" not in results
    assert set(results["sampling"]) == {"student_ms_per_image", "student_evaluations", "batch_size"}
    assert sorted(path.name for path in (run_dir / "eval").iterdir()) == ["real.png", "student.png"]


def test_teacher_by_folder_and_by_its_run(tmp_path: Path) -> None:
    save_teacher(tmp_path / "run" / "export")
    (tmp_path / "run" / "config.yaml").write_text(TEACHER_CONFIG.format(run=tmp_path / "run"))
    main(["--run", str(tmp_path / "run"), "--n", "20"])
    main(
        [
            "--teacher",
            str(tmp_path / "run" / "export"),
            "--data",
            "digits",
            "--n",
            "20",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    of_run, of_folder = (json.loads((tmp_path / name / "eval.json").read_text()) for name in ("run", "out"))
    assert of_run["teacher"] == of_folder["teacher"]
    assert of_run["teacher"]["fd_pixel"] > 1
    assert "student" not in of_run
    assert not (tmp_path / "run" / "export" / "eval.json").exists()


def test_held_out_digits_as_an_array(
    held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--array", str(held_out), "--data", "digits", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "eval.json").read_text())
    images = results["images"]
    assert (results["n"], results["seed"]) == (360, None)
    assert images["held_out"] == {"fd_pixel": pytest.approx(0, abs=1e-10), "precision": 1.0, "recall": 1.0}
    assert images["fd_pixel"] == results["reference"]["fd_pixel"] == pytest.approx(0.41092409, rel=1e-6)
    assert images["label_agreement"] == results["reference"]["classifier_accuracy"] >= 0.99
    assert images["memorised"] == 0.0
    assert "sampling" not in results
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["images.png", "real.png"]
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["recall"] == [f"{images['recall']:.3f}", "1.000", f"{images['recall']:.3f}", "-"]


def test_first_images_only_and_nothing_written_without_a_folder(
    held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--array", str(held_out), "--data", "digits", "--n", "100"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "none of them: expected one of --run, --teacher, --images and --array"),
        (
            ["--run", "a", "--array", "b"],
            "--run and --array: expected one of --run, --teacher, --images and --array",
        ),
        (["--array", "b"], "--array: expected --data with the real images, such as --data digits"),
        (["--array", "b", "--data", "digits", "--no-teacher"], "--no-teacher: goes with --run only"),
        (
            ["--images", "b", "--data", "digits", "--guidance", "2"],
            "--guidance: goes with a teacher; expected --teacher, or --run without --no-teacher",
        ),
        (
            ["--images", "b", "--data", "digits", "--seed", "0"],
            "--seed: goes with images that are made; expected --run or --teacher",
        ),
        (
            ["--array", "b", "--data", "digits", "--prompts", "c"],
            "--prompts: goes with images that are made; expected --run or --teacher",
        ),
        (["--run", "a", "--n", "3"], "--n 3: expected at least 4"),
        (["--run", "a", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--run", "a", "--seed", "-1"], "--seed -1: expected at least 0"),
        (["--run", "a", "--n", "many"], "argument --n: invalid int value: 'many'"),
        (["--run", "nowhere"], "nowhere: is not a run; expected a folder with config.yaml"),
        (["--array", "nowhere.npy", "--data", "digits"], "nowhere.npy: no such file"),
        (
            ["--images", "nowhere", "--data", "digits"],
            "nowhere: cannot be read (No such file or directory); expected a folder, a .zip or a .tar",
        ),
        (
            ["--teacher", "nowhere", "--data", "digits"],
            "nowhere: no such folder; expected a run, a checkpoint or an export",
        ),
        (
            ["--array", "b", "--data", "digts"],
            "--data digts: 'digts' is not in distill/data/sources; did you mean 'digits'?",
        ),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments", ["--run x", "scene --run x", "compare x", "protocols", "report x", "--help"]
)
def test_commands_of_one_process_are_refused_in_several(
    arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"^2 processes were started, and this command runs in one; expected "
    ):
        main(arguments.split())


@pytest.mark.parametrize("command", ["fid", "sweep", "diversity", "preference", "geneval", "dpg", "text"])
def test_commands_that_share_their_work_run_in_several_processes(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m eval {command} ")


def test_guidance_of_a_teacher_without_a_condition_is_refused(tmp_path: Path) -> None:
    save_teacher(tmp_path / "teacher", label_count=0)
    with pytest.raises(UserError, match="--guidance: is 2, and the teacher has no condition; expected 1"):
        main(["--teacher", str(tmp_path / "teacher"), "--data", "digits", "--guidance", "2"])


def test_networks_that_do_not_fit_the_data(tmp_path: Path) -> None:
    save_teacher(tmp_path / "large", resolution=16)
    save_teacher(tmp_path / "labels", label_count=4)
    with pytest.raises(
        UserError, match=r"^the teacher makes images of \(1, 16, 16\); expected \(1, 8, 8\) as the data's$"
    ):
        main(["--teacher", str(tmp_path / "large"), "--data", "digits", "--n", "8"])
    with pytest.raises(UserError, match=r"^the teacher has 4 labels; expected 10 as the data's$"):
        main(["--teacher", str(tmp_path / "labels"), "--data", "digits", "--n", "8"])


def test_a_run_without_data_asks_for_them(run_dir: Path) -> None:
    write_finished_run(run_dir, {"name": "native", "path": str(run_dir.parent / "teacher")})
    with pytest.raises(UserError, match=r"the run has no data to compare with; give --data$"):
        main(["--run", str(run_dir)])


def test_a_folder_that_cannot_be_written_is_refused_before_sampling(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--out .*/file: cannot be made \(File exists\)$"):
        main(["--run", str(run_dir), "--out", str(tmp_path / "file")])


def test_results_that_cannot_be_written_are_one_line(held_out: Path, tmp_path: Path) -> None:
    (tmp_path / "eval.json").mkdir()
    with pytest.raises(UserError) as error:
        main(["--array", str(held_out), "--data", "digits", "--n", "100", "--out", str(tmp_path)])
    assert str(error.value) == f"{tmp_path / 'eval.json'}: cannot be written (Is a directory)"


def test_images_that_are_not_finite_leave_the_run_as_it_was(run_dir: Path) -> None:
    generator = distill.load_generator(run_dir)
    for parameter in generator.parameters():
        parameter.data = parameter.data * float("nan")
    save_model(generator, run_dir / "export")
    with pytest.raises(
        UserError,
        match=r"^20 of 20 images cannot be used: "
        r"the student: the image of seed 0 has values that are not finite$",
    ):
        main(["--run", str(run_dir), "--n", "20"])
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.yaml", "export"]


def test_a_complaint_is_one_line_and_comes_without_heavy_imports() -> None:
    code = """
import sys
from distill.eval.__main__ import main, run_command
sys.argv[1:] = ["--rn", "x"]
try:
    run_command(main)
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (
        2,
        "error: '--rn': unknown argument; did you mean '--run'?\n",
        "False\n",
    )
    done = subprocess.run(
        [sys.executable, "-m", "eval", "--run", "x", "--nn", "5"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (
        2,
        "error: '--nn': unknown argument; did you mean '--n'?\n",
        "",
    )
    done = subprocess.run([sys.executable, "-m", "eval", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--batch-size" in done.stdout
