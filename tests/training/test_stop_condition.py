"""Guards: what they say of a line, and that a run stops where they say so, saved and exported, and goes on when the bound is lifted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from distill import load_generator
from distill.config.errors import UserError
from distill.networks.folder import checkpoints
from distill.storage.tensors import load_tensors
from distill.training.config import read_config
from distill.training.launch import launch
from distill.training.stop_condition import STOPPED, StopCondition
from tests.helpers.random_teacher import save_random_teacher

LINE = {"step": 40, "loss/objective": 0.1, "score_gap": 2.0, "monitor/n": 16, "monitor/fd_pixel": 0.6}


@pytest.mark.parametrize(
    ("guard", "violation"),
    [
        ({"measure": "monitor/fd_pixel", "above": 0.5}, "monitor/fd_pixel is 0.6; expected at most 0.5"),
        ({"measure": "monitor/fd_pixel", "above": 0.6}, None),
        ({"measure": "score_gap", "below": 2.5}, "score_gap is 2; expected at least 2.5"),
        ({"measure": "score_gap", "above": 3, "below": 1}, None),
        ({"measure": "score_gap", "above": 1, "start_step": 41}, None),
    ],
)
def test_a_guard_says_what_is_beyond_its_bounds(guard: dict, violation: str | None) -> None:
    assert StopCondition(**guard).check(LINE) == violation
    assert StopCondition(**guard).violation(LINE) == violation


def test_what_is_not_finite_is_beyond_any_bound() -> None:
    for value in (float("nan"), float("inf")):
        assert (
            StopCondition(measure="score_gap", above=1e9).check({**LINE, "score_gap": value})
            == f"score_gap is {value}; expected at most 1e+09"
        )
    assert (
        StopCondition(measure="score_gap", below=-1e9).check({**LINE, "score_gap": float("nan")}) is not None
    )


def test_a_measurement_that_is_not_there_is_named() -> None:
    with pytest.raises(
        UserError,
        match=r"stop_when: step 40 has no 'score_gapp'; did you mean 'score_gap'\?; what comes later needs a start_step",
    ):
        StopCondition(measure="score_gapp", above=1).check(LINE)
    with pytest.raises(UserError, match="has no 'monitor/fd_pixels'; did you mean 'monitor/fd_pixel'"):
        StopCondition(measure="monitor/fd_pixels", above=1).check(LINE)
    between = {
        "step": 41,
        "score_gap": 2.0,
    }  # a line without measurements of the monitor, which come in their own steps
    assert StopCondition(measure="monitor/fd_pixel", above=0.5).check(between) is None


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "expected above or below, or both"),
        ({"above": 1, "below": 2}, "above: is 1; expected at least below, 2"),
    ],
)
def test_a_guard_has_a_bound(bounds: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StopCondition(measure="score_gap", **bounds)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """Run 6 steps with a monitor that measures 1, 2, 3, ... times 0.1 at every other step; overrides as on the command line."""
    save_random_teacher(tmp_path / "teacher")
    config = {
        "task": "distill",
        "run_dir": str(tmp_path / "run"),
        "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
        "steps": 6,
        "batch_size": 2,
        "device": "cpu",
        "objective": {"name": "score_matching"},
        "log_every": 1,
        "monitor_every": 2,
        "monitor_images": 2,
        "checkpoint_every": 100,
        "sample_every": 100,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    measured: list[float] = []

    def monitor(images: Tensor) -> dict[str, float]:
        assert images.shape == (2, 1, 8, 8)
        measured.append(0.1)
        return {"drift": sum(measured)}

    return lambda *overrides: launch(read_config(tmp_path / "run.yaml", overrides), monitor)


DRIFT = ["--stop_when", "[{measure: monitor/drift, above: 0.15}]"]


def state(run_dir: Path) -> dict[str, Tensor]:
    files = sorted(checkpoints(run_dir)[-1].glob("*.safetensors"))
    return {f"{file.name} {name}": value for file in files for name, value in load_tensors(file).items()}


def test_a_run_stops_at_its_bound_saved_and_exported(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*DRIFT) == STOPPED == 3
    said = capsys.readouterr().out
    assert (
        "stopped at step 4 by stop_when: monitor/drift is 0.2; expected at most 0.15; the same command with another bound continues"
        in said
    )
    assert f"; the network is in {tmp_path / 'run' / 'export'}" in said
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000004"]
    assert [
        json.loads(line)["step"] for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()
    ] == [1, 2, 3, 4]
    exported, saved = (
        load_generator(path).state_dict()
        for path in (tmp_path / "run" / "export", checkpoints(tmp_path / "run")[-1])
    )
    assert all(torch.equal(value, saved[name]) for name, value in exported.items())


def test_the_same_command_stops_at_once_and_another_bound_continues_bit_for_bit(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*DRIFT) == STOPPED
    assert run(*DRIFT) == STOPPED
    assert capsys.readouterr().out.count("stopped at step 4 by stop_when") == 2
    assert len((tmp_path / "run" / "stats.jsonl").read_text().splitlines()) == 4
    assert run("--stop_when", "[{measure: monitor/drift, above: 9}]") == 0
    assert "finished 6 steps" in capsys.readouterr().out
    assert run("--run_dir", str(tmp_path / "whole")) == 0
    one, other = state(tmp_path / "run"), state(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_any_logged_key_will_do(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            "--stop_when", "[{measure: loss/fake, above: 1e9}, {measure: score_gap, above: 0, start_step: 3}]"
        )
        == STOPPED
    )
    assert "stopped at step 3 by stop_when: score_gap is" in capsys.readouterr().out


def test_what_nothing_measures_is_refused(run, tmp_path: Path) -> None:
    config = read_config(tmp_path / "run.yaml", DRIFT)
    with pytest.raises(
        UserError,
        match="stop_when: nothing measures 'monitor/drift' in this run; expected data, or monitor_reference",
    ):
        launch(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="stop_when: step 1 has no 'score_gab'; did you mean 'score_gap'"):
        run("--stop_when", "[{measure: score_gab, above: 1}]")
