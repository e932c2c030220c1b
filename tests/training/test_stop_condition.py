"""Stop conditions: what they say of a line, and runs that stop at their bounds.

A stopped run is saved and exported, and continues with another bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from torch import Tensor

from distill import load_generator
from distill.config.errors import UserError
from distill.networks.folder import checkpoints
from distill.training.settings.stop_condition import STOPPED, StopCondition
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_names,
    checkpoint_tensors,
    logged_steps,
    read_lines,
    refusal,
    train_run,
    write_run,
)

LINE = {"step": 40, "loss/objective": 0.1, "score_gap": 2.0, "monitor/n": 16, "monitor/fd_pixel": 0.6}


@pytest.mark.parametrize(
    ("condition", "violation"),
    [
        ({"measure": "monitor/fd_pixel", "above": 0.5}, "monitor/fd_pixel is 0.6; expected at most 0.5"),
        ({"measure": "monitor/fd_pixel", "above": 0.6}, None),
        ({"measure": "score_gap", "below": 2.5}, "score_gap is 2; expected at least 2.5"),
        ({"measure": "score_gap", "above": 3, "below": 1}, None),
        ({"measure": "score_gap", "above": 1, "start_step": 41}, None),
    ],
)
def test_a_condition_says_what_is_beyond_its_bounds(condition: dict[str, Any], violation: str | None) -> None:
    assert StopCondition(**condition).check(LINE, is_detailed=True) == violation
    assert StopCondition(**condition).violation(LINE) == violation


def test_a_value_that_is_not_finite_is_beyond_any_bound() -> None:
    at_most = StopCondition(measure="score_gap", above=1e9)
    at_least = StopCondition(measure="score_gap", below=-1e9)
    for value in (float("nan"), float("inf")):
        line = {**LINE, "score_gap": value}
        assert at_most.check(line, is_detailed=True) == f"score_gap is {value}; expected at most 1e+09"
    assert at_least.check({**LINE, "score_gap": float("nan")}, is_detailed=True) is not None


def test_an_unknown_measure_is_named() -> None:
    message = (
        r"stop_when: step 40 has no 'score_gapp'; did you mean 'score_gap'\?; "
        "a value that is first logged later needs a start_step"
    )
    with pytest.raises(UserError, match=message):
        StopCondition(measure="score_gapp", above=1).check(LINE, is_detailed=True)
    with pytest.raises(UserError, match="has no 'monitor/fd_pixels'; did you mean 'monitor/fd_pixel'"):
        StopCondition(measure="monitor/fd_pixels", above=1).check(LINE, is_detailed=True)
    without_monitor = {"step": 41, "score_gap": 2.0}  # the monitor has steps of its own
    for measure in ("monitor/fd_pixel", "ema/1/fd_pixel"):
        assert StopCondition(measure=measure, above=0.5).check(without_monitor, is_detailed=True) is None
    of_gradient = StopCondition(measure="gradient_at_sample/objective", above=1)
    assert of_gradient.check(LINE, is_detailed=False) is None


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "expected above or below, or both"),
        ({"above": 1, "below": 2}, "above: is 1; expected at least below, 2"),
    ],
)
def test_a_condition_needs_a_bound(bounds: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StopCondition(measure="score_gap", **bounds)


Run = Callable[..., Path]
"""Trains a run with overrides, `exit_code=` the expected one, and returns the run's folder."""
DRIFT = "--stop_when=[{measure: monitor/drift, above: 0.15}]"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a run of 6 steps that is monitored at every other step."""
    intervals = {"monitor_every": 2, "checkpoint_every": 100, "sample_every": 100}
    return write_run(tmp_path, steps=6, monitor_images=2, **intervals)


@pytest.fixture
def train(file: Path) -> Run:
    """Return a function that trains the run with a monitor that measures a drift of 0.1, 0.2, 0.3, ..."""
    return functools.partial(train_run, file, monitor=Drift())


class Drift:
    """A monitor that measures a drift of 0.1, 0.2, 0.3, ..."""

    def __init__(self) -> None:
        self.measurements = 0

    def features(self, images: Tensor) -> Tensor:
        return images

    def measure(self, features: Tensor) -> dict[str, float]:
        assert features.shape == (2, 1, 8, 8)
        self.measurements += 1
        return {"drift": 0.1 * self.measurements}


def test_a_run_stops_at_its_bound_saved_and_exported(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(DRIFT, exit_code=3)
    said = capsys.readouterr().out
    assert (
        "stopped at step 4 by stop_when: monitor/drift is 0.2; expected at most 0.15; "
        "the same command with another bound continues" in said
    )
    assert f"; the network is in {run / 'export'}" in said
    assert checkpoint_names(run) == ["step-00000004"]
    assert logged_steps(run) == [1, 2, 3, 4]
    exported, saved = (load_generator(path).state_dict() for path in (run / "export", checkpoints(run)[-1]))
    assert_same_tensors(exported, saved)


def test_the_same_command_stops_at_once_and_another_bound_continues_bit_for_bit(
    train: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(DRIFT, exit_code=STOPPED)
    run = train(DRIFT, exit_code=STOPPED)
    assert capsys.readouterr().out.count("stopped at step 4 by stop_when") == 2
    assert len(read_lines(run)) == 4
    train("--stop_when=[{measure: monitor/drift, above: 9}]")
    assert "finished 6 steps" in capsys.readouterr().out
    whole = train(f"--run_dir={tmp_path / 'whole'}")
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(whole))


def test_any_logged_measure_will_do(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = "[{measure: loss/fake, above: 1e9}, {measure: score_gap, above: 0, start_step: 3}]"
    train(f"--stop_when={conditions}", exit_code=STOPPED)
    assert "stopped at step 3 by stop_when: score_gap is" in capsys.readouterr().out


def test_lines_of_measurements_and_the_last_line_need_no_details(
    train: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    condition = "--stop_when=[{measure: gradient_at_sample/objective, above: 1e9}]"
    run = train(condition, "--log_every=5")
    assert "finished 6 steps" in capsys.readouterr().out
    lines = read_lines(run)
    assert [line["step"] for line in lines] == [2, 4, 5, 6]
    assert [line["step"] for line in lines if "gradient_at_sample/objective" in line] == [5]


def test_a_measure_that_nothing_measures_is_refused(train: Run, file: Path, tmp_path: Path) -> None:
    assert (
        "stop_when: nothing measures 'monitor/drift' in this run; "
        "expected data or monitor_reference, and a number as monitor_every" in refusal(file, DRIFT)
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="stop_when: step 1 has no 'score_gab'; did you mean 'score_gap'"):
        train("--stop_when=[{measure: score_gab, above: 1}]")
