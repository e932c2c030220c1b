"""What files and settings tell to be wrong is said before a teacher's weights are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill.config.errors import UserError
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.folder import save_model
from distill.teachers.diffusers import Settings as Pipeline
from distill.teachers.native import Settings as Native
from distill.training.config import read_config
from distill.training.launch import launch
from distill.types import Denoiser
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import refusal, train_run, write_run
from tests.helpers.tiny_pipelines import stable_diffusion


class Disk(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often a teacher's weights are read: the list has the path of each time."""
    loads: list[str] = []
    load_native, load_pipeline = Native.load, Pipeline.load

    def native(settings: Native) -> Denoiser:
        loads.append(str(settings.path))
        return load_native(settings)

    def pipeline(settings: Pipeline) -> DiffusersNetwork:
        loads.append(settings.path)
        return load_pipeline(settings)

    monkeypatch.setattr(Native, "load", native)
    monkeypatch.setattr(Pipeline, "load", pipeline)
    return loads


GAN: dict[str, Any] = {"terms": [{"name": "gan", "weight": 0.1}], "data": {"name": "digits"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": {"init_from": "nowhere"}}, "nowhere: no such folder"),
        ({"prompts": {"name": "text_file", "path": "nowhere.txt"}}, "prompts.path: nowhere.txt"),
        ({"data": {"name": "image_folder", "path": "nowhere"}}, "nowhere: cannot be read"),
        ({"data": {"name": "emoji", "resolution": 8}, "discriminator": {}}, "data: images of (3, 8, 8)"),
        (
            {**GAN, "discriminator": {"depths": ["bottlneck"]}},
            "discriminator.depths: 'bottlneck' is not a depth of the teacher; did you mean 'bottleneck'",
        ),
        (
            {"generator": {"noise_levels": {"name": "uniform"}}},
            "noise_levels: uniform needs a schedule that ends",
        ),
        (
            {"stop_when": [{"measure": "monitor/fd_pixel", "above": 1}], "monitor_every": None},
            "stop_when: nothing measures 'monitor/fd_pixel'",
        ),
        ({"resume": "nowhere"}, "resume: nowhere is no checkpoint"),
        ({"run_dir": "Makefile/run"}, "run_dir: Makefile/run cannot be made ("),
        ({"trackers": ["trackio"]}, "trackers: trackio is not installed"),
        (
            {
                "teacher_samples": {"path": "docs", "count": 4},
                "terms": [{"name": "regression", "weight": 1}],
            },
            "teacher_samples.path: docs is there and holds no samples",
        ),
    ],
)
def test_nothing_is_loaded_for_a_run_that_cannot_start(
    tmp_path: Path,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert message in refusal(write_run(tmp_path, **settings))
    assert loads == []
    assert not (tmp_path / "run").exists()


def test_nothing_is_measured_before_the_checks_either(tmp_path: Path, loads: list[str]) -> None:
    def measure(*given: Any) -> None:
        raise AssertionError("the real images are measured")

    config = read_config(write_run(tmp_path, **GAN, discriminator={"depths": ["x"]}))
    with pytest.raises(UserError, match=r"^discriminator\.depths: 'x' is not a depth"):
        launch(config, measure)
    assert loads == []


def test_wrong_label_counts_are_found_in_the_description_of_a_teacher(
    tmp_path: Path, loads: list[str]
) -> None:
    save_model(save_random_teacher(tmp_path / "ten"), tmp_path / "ten")
    described = (tmp_path / "ten" / "config.json").read_text()
    shutil.copytree(tmp_path / "ten", tmp_path / "seven")
    (tmp_path / "seven" / "config.json").write_text(
        described.replace('"label_count": 10', '"label_count": 7')
    )
    teacher = {"name": "native", "path": str(tmp_path / "seven")}
    file = write_run(tmp_path, teacher=teacher, discriminator={}, **GAN)
    assert refusal(file) == "data: 10 labels; expected 7 as the network's"
    assert loads == []


def test_a_pipeline_is_described_by_its_files(tmp_path: Path, loads: list[str]) -> None:
    stable_diffusion(tmp_path / "pipeline")
    teacher = {"name": "diffusers", "path": str(tmp_path / "pipeline")}
    file = write_run(tmp_path, teacher=teacher)
    assert refusal(file) == "prompts: the teacher takes text; expected a source of prompts"
    assert loads == []


def test_a_full_disk_is_found_before_the_first_step(
    tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds student, fake score, average and means of 8 bytes a parameter."""
    file = write_run(tmp_path, steps=9, checkpoint_every=3, keep_checkpoints=1)
    count = sum(value.numel() for value in Native(path=tmp_path / "teacher").load().state_dict().values())
    size = 2 * (2 * 4 + 4 + 2 * 8) * count  # two checkpoints for a moment, although one is kept
    for free in (size * 0.9, size * 1.1):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: Disk(2**40, 0, int(free)))
        if free < size:
            said = refusal(file)
            assert said.startswith(f"run_dir: {tmp_path / 'run'} has ")
            assert "GiB of free disk, and 2 checkpoints take" in said
            assert not (tmp_path / "run").exists()
        else:
            train_run(file)
    loads.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk(2**40, 0, 1000))
    assert "GiB of free disk, and a checkpoint takes" in refusal(file, "--steps=12")
    assert loads == []
