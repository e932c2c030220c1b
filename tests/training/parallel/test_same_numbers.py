"""The numbers of a run, its previews and its teacher samples do not depend on how its batches are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.methods import CRITIC, DATA, GAN, METHODS
from tests.helpers.runs import checkpoint_names, read_lines, train_in_processes, train_run, write_run

PLAIN = {"name": "adam", "lr": 1e-2, "eps": 1.0}
"""Adam whose update is nearly proportional to the gradient; the default's is its sign, up to rounding."""
EVERYTHING: dict[str, Any] = {
    "data": DATA,
    "objective": {"name": "expanded_divergence", "divergence": "jensen_shannon"},
    "fake": {"updates": 2},
    "discriminator": {**CRITIC, "reads": "fake", "r1": {"weight": 0.1}, "optimizer": PLAIN},
    "ratio": {"bins": 2},
    "teacher_samples": {"path": "given on the command line", "count": 9, "sampler": {"steps": 2}},
    "terms": [
        {**GAN, "own_noise": True, "weighting": "dmd"},
        {"name": "regression", "weight": 0.2},
        {"name": "implicit_reward", "weight": 0.1},
        {
            "name": "reward",
            "weight": 0.1,
            "rewards": [{"name": "classifier", "path": "assets/digits-classifier", "bounds": [-2, 0]}],
        },
    ],
}
LABORATORY: dict[str, Any] = {
    "teacher": {
        "name": "gaussian_mixture",
        "components": [{"mean": [0.5, -1.0], "std": 0.4}, {"mean": [-2.0, 1.0], "std": 0.7}],
    },
    "generator": {"network": {"name": "mlp", "width": 8, "blocks": 1}, "init_noise_to_signal": 2.0},
    "fake": {"network": {"name": "mlp", "width": 8, "blocks": 1}},
    "teacher_samples": {"path": "given on the command line", "count": 9, "sampler": {"steps": 2}},
    "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
    "discriminator": {"reads": "fake", "real": "teacher", "width": 8, "optimizer": PLAIN},
    "ratio": {"bins": 1},
}
TEACHER_TRAINING: dict[str, Any] = {
    "task": "train_teacher",
    "data": DATA,
    "network": {"width": 8, "multipliers": [1, 2], "blocks": 1},
    "optimizer": PLAIN,
}


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """Write a run of four steps with two lines, in which rounding grows slowly."""
    given = {name: settings.get(name, {}) for name in ("generator", "fake")}
    if settings.get("task") != "train_teacher":
        settings = settings | {
            name: {**network, "optimizer": {**PLAIN, **network.get("optimizer", {})}}
            for name, network in given.items()
        }
    intervals = {"log_every": 2, "monitor_every": 2, "sample_every": 4, "monitor_images": 7}
    size = {"steps": 4, "batch_size": 8, "micro_batch_size": None}
    return write_run(folder, **{**settings, **intervals, **size})


def train_split(
    file: Path, name: str, *overrides: str, processes: int = 1, micro_batch: int | None = None
) -> Path:
    """Train a run that is split so, with teacher samples of its own, and return its folder."""
    run = file.parent / name
    overrides = (*overrides, f"--run_dir={run}", f"--micro_batch_size={micro_batch or 'null'}")
    if "teacher_samples" in file.read_text():
        overrides = (*overrides, f"--teacher_samples.path={run}-samples")
    done = train_in_processes(file, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr[-4000:]
    return run


def assert_same_numbers(found: Path, expected: Path) -> None:
    """Check every number of two runs that is no time."""
    lines = zip(read_lines(found), read_lines(expected), strict=True)
    for line, line_expected in lines:
        assert line.keys() == line_expected.keys()
        for name, value in line_expected.items():
            if name != "seconds" and not name.startswith("time/"):
                assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def preview(run: Path) -> np.ndarray:
    with Image.open(run / "samples" / "step-00000004.png") as image:
        return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run of every part of the method."""
    return write_settings(tmp_path_factory.mktemp("everything"), EVERYTHING)


@pytest.fixture(scope="module")
def whole(everything: Path) -> Path:
    """Train that run in one process, with whole batches, and return its folder."""
    return train_split(everything, "whole")


def test_two_processes_log_measure_show_and_store_what_one_does(everything: Path, whole: Path) -> None:
    split = train_split(everything, "split", processes=2)
    assert_same_numbers(split, whole)
    assert np.abs(preview(split) - preview(whole)).max() <= 1
    stored = [sorted(Path(f"{run}-samples").iterdir()) for run in (whole, split)]
    assert [file.name for file in stored[1]] == ["00000000.safetensors", "samples.json"]
    assert [file.read_bytes() for file in stored[1]] == [file.read_bytes() for file in stored[0]]


@pytest.mark.slow
def test_micro_batches_log_what_a_whole_batch_does(everything: Path, whole: Path) -> None:
    assert_same_numbers(train_split(everything, "micro-batches", micro_batch=3), whole)


@pytest.mark.slow
def test_sharded_networks_log_measure_and_show_what_whole_ones_do(everything: Path, whole: Path) -> None:
    split = train_split(everything, "sharded", "--sharding.strategy=full", processes=2, micro_batch=3)
    assert_same_numbers(split, whole)
    assert np.abs(preview(split) - preview(whole)).max() <= 1


def test_the_metrics_that_are_no_means_are_logged(whole: Path) -> None:
    logged = read_lines(whole)[1]
    sizes = [f"gradient_at_sample/{loss}" for loss in ("objective", "gan", "implicit_reward", "reward")]
    others = ["ratio/log_ratio_std", "ratio/calibration_error", "grad_norm/generator", "monitor/fd_pixel"]
    assert min(logged[name] for name in [*sizes, *others]) > 0
    assert not [name for name in logged if name.endswith("^2")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [*METHODS.values(), LABORATORY, TEACHER_TRAINING],
    ids=[*METHODS, "laboratory", "teacher_training"],
)
def test_no_number_depends_on_how_the_batch_is_split(tmp_path: Path, settings: dict[str, Any]) -> None:
    file = write_settings(tmp_path, settings)
    assert_same_numbers(train_split(file, "split", processes=2, micro_batch=3), train_split(file, "whole"))


def test_a_loss_that_is_nan_on_one_process_ends_the_run_and_leaves_its_checkpoint(tmp_path: Path) -> None:
    file = write_settings(tmp_path, {**METHODS["sid"], "checkpoint_every": 1})
    done = train_in_processes(file, processes=2, program=("-m", "tests.helpers.broken_noise"))
    assert done.returncode == 1, done.stderr[-4000:]
    line = "error: step 2: loss 'objective' is nan on process 1 of 2; its batch's noise levels are quantiles "
    assert done.stderr.count(line) == 1, done.stderr[-4000:]
    assert checkpoint_names(tmp_path / "run") == ["step-00000001", "step-00000002"]
    assert read_lines(train_run(file))[-1]["step"] == 4
