"""`python -m eval sweep`: checkpoints measured once, the best three times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import save_model
from tests.helpers.fid_command import fid
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import write_finished_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of three checkpoints: a teacher of random weights entered at three noise levels."""
    teacher = save_random_teacher(tmp_path / "teacher")
    native = {"name": "native", "path": str(tmp_path / "teacher")}
    run = write_finished_run(tmp_path / "run", native, data={"name": "digits"}, steps=30)
    for step, level in ((10, 80.0), (20, 1.0), (30, 2.5)):
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        save_model(FewStepGenerator(teacher, level), folder)
    return run


@pytest.mark.parametrize("command", ["sweep", "fid"])
def test_latents_of_a_run_are_no_reference(run_dir: Path, command: str) -> None:
    teacher = {"name": "native", "path": str(run_dir.parent / "teacher")}
    write_finished_run(run_dir, teacher, data={"name": "latents", "path": "nowhere"}, steps=30)
    with pytest.raises(
        UserError, match=r"^--reference: the data are latents, and images are compared; expected real images$"
    ):
        main([command, "--run", str(run_dir), "--n", "80", "--device", "cpu"])


def sweep(run: Path, *arguments: str) -> dict:
    main(
        [
            "sweep",
            "--run",
            str(run),
            "--n",
            "80",
            "--features",
            str(run.parent / "features"),
            "--device",
            "cpu",
            *arguments,
        ]
    )
    return json.loads((run / "sweep.json").read_text())


def test_every_checkpoint_once_and_the_best_three_times(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = sweep(run_dir)
    distances = {int(step): summary["fd"]["mean"] for step, summary in content["checkpoints"].items()}
    assert sorted(distances) == [10, 20, 30]
    best = content["best"]
    assert distances[best["step"]] == min(distances.values())
    assert best["results"]["first_seeds"] == [80, 160, 240]  # 0 to 79 chose it
    assert distances[best["step"]] not in [repetition["fd"] for repetition in best["results"]["repetitions"]]
    values = torch.tensor(
        [repetition["fd"] for repetition in best["results"]["repetitions"]], dtype=torch.float64
    )
    assert best["results"]["summary"]["fd"] == {
        "mean": pytest.approx(float(values.mean())),
        "std": pytest.approx(float(values.std())),
        "min": pytest.approx(float(values.min())),
    }
    checkpoint = run_dir / "checkpoints" / "step-00000030"
    flags = "--reference digits --n 80 --bootstrap 0 --device cpu"
    measured = fid(run_dir.parent, "--run", str(checkpoint), *flags.split())
    assert measured["summary"]["fd"]["mean"] == distances[30]
    page = (run_dir / "report.html").read_text()
    stated = best["results"]["summary"]["fd"]
    number = f"{stated['mean']:.4f} ± {stated['std']:.4f}"
    over = f"over 3 repetitions (least {stated['min']:.4f})."
    assert f"Best: step {best['step']}, {number} {over}" in page
    assert "fd-pixel, 80 images of each checkpoint" in page
    out = capsys.readouterr().out
    chosen = f"step {best['step']} was chosen for {distances[best['step']]:.4f}"
    assert f"{chosen}; from seeds that did not choose it:\nFD-pixel {stated['mean']:.4f} ± " in out


def test_the_checkpoints_of_a_teacher(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for step in (10, 20):
        save_random_teacher(run / "checkpoints" / f"step-{step:08d}")
    (run / "config.yaml").write_text(
        f"task: train_teacher\nrun_dir: {run}\ndata: {{name: digits}}\nsteps: 20\n"
    )
    content = sweep(run, "--n", "20")
    assert content["checkpoints"]["10"] == content["checkpoints"]["20"]  # they are of the same weights
    assert content["best"]["results"]["source"]["sampler"]["steps"] == 18


def test_a_sweep_continues_and_refuses_another(run_dir: Path) -> None:
    content = sweep(run_dir)
    content["checkpoints"]["10"]["fd"]["mean"] = -1.0  # not measured again, so it will be the best
    (run_dir / "sweep.json").write_text(json.dumps(content))
    again = sweep(run_dir)
    assert again["checkpoints"]["10"]["fd"]["mean"] == -1.0
    assert again["best"]["step"] == 10
    with pytest.raises(
        UserError,
        match=r"sweep.json: holds another sweep: n is 80 there and 90 here; move it away to begin another$",
    ):
        sweep(run_dir, "--n", "90")
    with pytest.raises(
        UserError, match=r"step-00000010: is no run, whose data would be the reference; give --reference$"
    ):
        main(["fid", "--run", str(run_dir / "checkpoints" / "step-00000010")])
    with pytest.raises(UserError, match=r"assets: holds no checkpoints to measure$"):
        main(["sweep", "--run", "assets"])
