"""A run may be made longer: it ends as if it had been so long from its start. A finished one does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from distill.storage.files import read_mapping, write_json
from distill.teachers.native import Settings as Native
from distill.training.parallel.ending import how_to_continue
from distill.types import Denoiser
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_names,
    checkpoint_tensors,
    logged_steps,
    read_run,
    refusal,
    train_in_processes,
    train_run,
    write_run,
)

TEACHER: dict[str, Any] = {
    "task": "train_teacher",
    "data": {"name": "digits"},
    "network": {"width": 8, "multipliers": [1], "blocks": 1},
    "monitor_every": None,
}


@pytest.fixture(autouse=True)
def few_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.training.trainer.preview_count", lambda shape: 2)


@pytest.mark.parametrize("settings", [{}, TEACHER], ids=["distill", "train_teacher"])
def test_a_longer_run_ends_bit_for_bit_as_one_that_was_so_long_from_its_start(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(tmp_path, **settings)
    warmup = "optimizer.warmup_steps=4"
    place = f"--{warmup}" if settings else f"--generator.{warmup}"
    run = train_run(file, place, "--steps=3", "--log_every=2")
    assert train_run(file, place, "--steps=5", "--log_every=2") == run
    assert "finished 5 steps" in capsys.readouterr().out
    whole = train_run(file, place, "--steps=5", "--log_every=2", f"--run_dir={tmp_path / 'whole'}")
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(whole))
    assert logged_steps(run) == [2, 3, 4, 5]  # step 3 was the last one
    assert checkpoint_names(run) == ["step-00000003", "step-00000005"]
    assert (run / "export" / "model.safetensors").read_bytes() == (
        whole / "export" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("decay", ["linear", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_run_whose_rate_has_begun_to_fall_is_not_made_longer(tmp_path: Path, decay: str) -> None:
    falling = {"optimizer": {"decay": decay, "decay_from": 0.5}}
    file = write_run(tmp_path, steps=4, fake=falling, checkpoint_every=1, keep_checkpoints=9)
    run = train_run(file)
    assert refusal(file, "--steps=8") == (
        f"steps: is 8, and fake.optimizer let the learning rate fall in {run} as for 4 (decay_from: 0.5), so "
        "that 4 steps are those of a shorter run; expected 4, or a new run that starts with init_from"
    )
    newest, copied = run / "checkpoints" / "step-00000004", tmp_path / "copy_of_step_4"
    shutil.copytree(newest, copied)
    assert "so that 4 steps are those of a shorter run" in refusal(file, "--steps=8", f"--resume={copied}")
    # Step 2, the third, is the first of the shorter run's decay, whose rate is still whole.
    left = (run / "checkpoints" / "step-00000004" / "generator.safetensors").read_bytes()
    train_run(file, "--steps=8", f"--resume={run}/checkpoints/step-00000003")
    assert checkpoint_names(run) == [f"step-{step:08d}" for step in range(1, 9)]
    assert (run / "checkpoints" / "step-00000004.left" / "generator.safetensors").read_bytes() == left
    whole = train_run(file, "--steps=8", f"--run_dir={tmp_path / 'whole'}")
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(whole))


def test_a_run_continues_with_files_of_its_measurements_elsewhere(tmp_path: Path) -> None:
    """They change nothing that is trained."""
    file = write_run(tmp_path, steps=1)
    run = train_run(file, "--monitor_weights=here.pt", "--monitor_reference=here.npz")
    assert train_run(file, "--steps=2", "--monitor_weights=there.pt", "--monitor_reference=there.npz") == run
    whole = train_run(file, "--steps=2", f"--run_dir={tmp_path / 'whole'}")
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(whole))


@pytest.mark.parametrize(
    ("resume", "said"),
    [
        ("auto", "the same command continues from checkpoints/step-00000002"),
        ("never", "the same command with --resume auto continues from checkpoints/step-00000002"),
        ("step-00000001", "the same command with --resume auto continues from checkpoints/step-00000002"),
    ],
)
def test_a_command_that_would_go_back_is_not_said_to_continue(tmp_path: Path, resume: str, said: str) -> None:
    file = write_run(tmp_path)
    for step in (1, 2):
        (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert how_to_continue(read_run(file, f"--resume={resume}")) == said


def test_a_run_is_not_made_shorter(tmp_path: Path) -> None:
    file = write_run(tmp_path, steps=2)
    run = train_run(file)
    assert refusal(file, "--steps=1") == (
        f"steps: is 1, and the run in {run} has 2; expected 2 or more, since a run can be made longer, not "
        "shorter"
    )


def test_a_finished_run_has_nothing_to_do_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(tmp_path, steps=2)
    run = train_run(file)
    loads = count_loads(monkeypatch)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    train_run(file)
    assert capsys.readouterr().out.splitlines() == [
        f"run_dir: {run} finished its 2 steps before; nothing to do, the network is in {run / 'export'} "
        "(more --steps continue it)"
    ]
    assert loads == []
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_before_its_export_was_made_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export of the run when it was shorter may lie there."""
    file = write_run(tmp_path, steps=2)
    run = train_run(file)
    meta = read_mapping(run / "meta.json")
    assert meta.pop("finished_steps") == 2
    write_json(run / "meta.json", meta)
    (run / "export" / "model.safetensors").write_bytes(b"of a shorter run")
    train_run(file)
    assert "finished 2 steps" in capsys.readouterr().out
    assert (run / "export" / "model.safetensors").stat().st_size > 1000
    assert read_mapping(run / "meta.json")["finished_steps"] == 2


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Count how often a teacher of this project is loaded: the list has the path of each time."""
    loads: list[Path] = []
    load = Native.load

    def counted(settings: Native) -> Denoiser:
        loads.append(settings.path)
        return load(settings)

    monkeypatch.setattr(Native, "load", counted)
    return loads


@pytest.mark.slow
def test_several_processes_agree_on_what_there_is_to_do(tmp_path: Path) -> None:
    file = write_run(tmp_path, steps=2, preview={"count": 2})
    said = []
    for steps in (2, 2, 3):
        done = train_in_processes(file, f"--steps={steps}", processes=2)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[1].count("finished its 2 steps before; nothing to do") == 1
    assert said[2].count("finished 3 steps") == 1
    whole = tmp_path / "whole"
    train_in_processes(file, "--steps=3", f"--run_dir={whole}", processes=2)
    assert_same_tensors(checkpoint_tensors(tmp_path / "run"), checkpoint_tensors(whole))
