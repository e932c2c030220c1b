"""`--log-to`: what experiment trackers get of each command, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.eval.results.tracked import track_distances, track_preference
from distill.eval.results.tracking import Tracked, Tracking, log_results, step_of_run
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import save_model
from distill.publishing.trackers import TRACKERS
from distill.training.settings import DistillRun
from tests.helpers import stand_in_trackers
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import write_finished_run
from tests.helpers.scored_results import write_scored


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of two checkpoints with an export, of random weights, on digits."""
    teacher = save_random_teacher(tmp_path / "teacher")
    native = {"name": "native", "path": str(tmp_path / "teacher")}
    run = write_finished_run(tmp_path / "mine", native, data={"name": "digits"}, steps=20)
    for folder, level in (
        ("checkpoints/step-00000010", 80.0),
        ("checkpoints/step-00000020", 1.0),
        ("export", 2.5),
    ):
        (run / folder).mkdir(parents=True)
        save_model(FewStepGenerator(teacher, level), run / folder)
    return run


def evaluate(command: str, folder: Path, *flags: str) -> None:
    main(
        [*command.split(), *flags, "--features", str(folder / "features"), "--log-dir", str(folder / "logs")]
    )


def test_every_tracker_gets_numbers_and_grids_of_a_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    evaluate(f"--run {run_dir} --n 70 --log-to tensorboard,wandb,trackio", run_dir.parent)
    results = json.loads((run_dir / "eval.json").read_text())
    logs = run_dir.parent / "logs"
    assert [run.tracker for run in runs] == ["tensorboard", "wandb", "trackio"]
    for run in runs:
        (step,) = run.numbers
        numbers = run.numbers[step]
        assert step == 20  # the newest checkpoint's
        assert numbers["eval/student/fd_pixel"] == results["student"]["fd_pixel"]
        assert numbers["eval/student/held_out/recall"] == results["student"]["held_out"]["recall"]
        assert numbers["eval/teacher/ms_per_image"] == results["sampling"]["teacher_ms_per_image"]
        assert numbers["eval/sampling/speedup"] == results["sampling"]["speedup"]
        assert set(run.images) == {f"eval/grid/{name}" for name in ("real", "student", "teacher")}
        assert run.is_finished
    assert runs[0].opened["folder"] == str(logs / "distill" / "eval-mine")
    with Image.open(run_dir / "eval" / "student.png") as grid:
        assert runs[0].images["eval/grid/student"] == (grid.height, grid.width, 3)
    for run in runs[1:]:
        assert run.images["eval/grid/student"] == ("image", str(run_dir / "eval" / "student.png"))
        assert (run.opened["project"], run.opened["name"]) == ("distill", "eval-mine")
        assert run.opened["config"]["hashes"] == results["hashes"]
    assert runs[1].opened["dir"] == str(logs)
    assert "logged to wandb: project distill, run eval-mine" in capsys.readouterr().out


def test_the_step_is_that_of_the_checkpoint(run_dir: Path) -> None:
    assert step_of_run(run_dir) == 20
    assert step_of_run(run_dir / "checkpoints" / "step-00000010") == 10
    assert step_of_run(run_dir / "export") == 0
    assert step_of_run("7") == 0
    assert step_of_run(None) == 0


def test_distances_have_the_name_of_their_protocol(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    out = run_dir.parent / "fid.json"
    flags = (
        f"--n 80 --bootstrap 0 --device cpu --out {out} --log-to wandb --log-project papers --log-run first"
    )
    evaluate(f"fid --run {run_dir} {flags}", run_dir.parent)
    results = json.loads(out.read_text())
    means = {f"fid/fd-pixel/{key}": spread["mean"] for key, spread in results["summary"].items()}
    assert runs[0].numbers == {20: means}
    assert (runs[0].opened["project"], runs[0].opened["name"]) == ("papers", "first")
    assert runs[0].opened["config"]["reference"] == results["reference"]


def test_several_protocols_have_names_and_facts_of_their_own() -> None:
    one: Any = {"protocol": "fd-pixel", "summary": {"fd": {"mean": 2.0}}, "repetitions": [{}], "n": 80}
    other = {**one, "protocol": "fd-effnet", "summary": {"fd": {"mean": 3.0}}}
    tracked = track_distances([one, other], "mine", 20)
    assert tracked.numbers == {20: {"fid/fd-pixel/fd": 2.0, "fid/fd-effnet/fd": 3.0}}
    assert {name: facts["n"] for name, facts in tracked.facts.items()} == {"fd-pixel": 80, "fd-effnet": 80}


def test_diversity_has_the_name_of_its_protocol(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    out = run_dir.parent / "diversity.json"
    flags = f"--per-prompt 2 --device cpu --out {out} --log-to trackio"
    evaluate(f"diversity --run {run_dir} {flags}", run_dir.parent)
    statistics = json.loads(out.read_text())["statistics"]
    means = {f"diversity/fd-pixel/{key}": found["mean"] for key, found in statistics.items()}
    assert runs[0].numbers == {20: means}
    assert runs[0].opened["name"] == "diversity-mine"


def test_a_sweep_is_logged_by_the_steps_of_its_checkpoints(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    evaluate(f"sweep --run {run_dir} --n 80 --device cpu --log-to trackio", run_dir.parent)
    content = json.loads((run_dir / "sweep.json").read_text())
    numbers = runs[0].numbers
    assert list(numbers) == [10, 20]
    for step in numbers:
        summary = content["checkpoints"][str(step)]
        assert numbers[step]["sweep/fd-pixel/fd"] == summary["fd"]["mean"]
    best = content["best"]["results"]["summary"]["fd"]
    assert numbers[20]["sweep/fd-pixel/best/fd_min"] == best["min"]
    assert numbers[20]["sweep/fd-pixel/best/step"] == content["best"]["step"]
    assert "sweep/fd-pixel/best/fd" not in numbers[10]


def test_preference_scores_by_score_and_category(tmp_path: Path) -> None:
    out = write_scored(tmp_path, "result", {"pickscore": [1.0, 2.0, 6.0]})
    results = json.loads(out.read_text())
    score = results["scores"]["pickscore"]
    score["sheet"] = "result-pickscore.png"
    score["against"] = {"mean": 2.0, "standard_error": 0.1, "win_rate": 0.75, "win_interval": [0.5, 1.0]}
    tracked = track_preference(results, "mine", 7, out)
    assert tracked.numbers == {
        7: {
            "preference/pickscore/mean": 3.0,
            "preference/pickscore/standard_error": score["standard_error"],
            "preference/pickscore/against/mean": 2.0,
            "preference/pickscore/against/standard_error": 0.1,
            "preference/pickscore/against/win_rate": 0.75,
            "preference/pickscore/category/animals": 1.5,
            "preference/pickscore/category/places": 6.0,
        }
    }
    assert tracked.images == {"preference/pickscore/sheet": tmp_path / "result-pickscore.png"}
    assert tracked.facts["subject"] == {
        key: value for key, value in results["subject"].items() if key != "files"
    }
    json.dumps(tracked.facts)


def tracked_numbers(images: dict[str, Path], **numbers: float) -> Tracked:
    return Tracked("fid", "mine", {0: numbers, 5: numbers}, {"n": 3}, images)


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    log_results(Tracking(("wandb",), "p", None, tmp_path), tracked_numbers({}, a=1.0, b=math.nan))
    assert runs[0].numbers == {0: {"a": 1.0}, 5: {"a": 1.0}}


def test_a_tracker_that_fails_is_one_line_after_the_results(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = stand_in_trackers.install(monkeypatch)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no API key:\nlog in first")

    monkeypatch.setattr(stand_in_trackers.TrackedRun, "log", fail)
    expected = "--log-to wandb: no API key: log in first; the results are printed all the same"
    with pytest.raises(UserError, match=f"^{expected}$"):
        evaluate(f"--run {run_dir} --n 70 --no-teacher --log-to wandb", run_dir.parent)
    assert (run_dir / "eval.json").is_file()
    assert runs[0].is_finished
    assert "Fréchet distance" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "fid", "sweep", "scene", "preference --scores aesthetic"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--log-to wandbb", "--log-to: 'wandbb' is no tracker; did you mean 'wandb'?"),
        ("--log-run x", "--log-run: goes with --log-to"),
        ("--log-dir x", "--log-dir: goes with --log-to"),
        (
            "--log-to tensorboard,trackio",
            "--log-to: tensorboard is not installed; expected it from pip install '.[tracking]'",
        ),
    ],
)
def test_what_cannot_be_logged_is_refused_before_anything_is_measured(
    command: str, flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        main([*command.split(), "--run", "nowhere", *flags.split()])
    assert str(caught.value) == message


def test_training_and_evaluation_know_the_same_trackers() -> None:
    setting = DistillRun.model_fields["trackers"].annotation
    (names, _) = get_args(setting)
    assert get_args(names) == TRACKERS


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tracking = Tracking(("tensorboard",), "papers", "first", tmp_path)
    log_results(tracking, tracked_numbers({"grid": tmp_path / "a.png"}, **{"fid/x/fd": 1.5}))
    events: Any = EventAccumulator(str(tmp_path / "papers" / "first"), size_guidance={"images": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("fid/x/fd")] == [(0, 1.5), (5, 1.5)]
    (image,) = events.Images("grid")
    assert (image.step, image.width, image.height) == (5, 3, 2)
    (facts,) = events.Tensors("facts/text_summary")
    assert b'"n": 3' in facts.tensor_proto.string_val[0]
