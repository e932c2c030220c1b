"""Stored samples of the teacher: their values, interrupted drawing, and refusal of another teacher's."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import distill.training.distillation.teacher_samples
from distill.config.errors import UserError
from distill.diffusion.sampling import balanced_labels, sample_teacher
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.folder import checkpoints
from distill.teachers.gaussian_mixture import Settings
from distill.training.distillation.settings import TeacherSamplesSettings
from distill.training.distillation.teacher_samples import FIRST_SEED, TeacherSamples
from tests.helpers.alone import ALONE
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_names,
    checkpoint_tensors,
    read_lines,
    refusal,
    train_run,
    write_run,
)

COMPONENTS = [{"mean": [0.5, -1.0], "std": 0.4, "label": 0}, {"mean": [-2.0, 1.0], "std": 0.7, "label": 1}]


def teacher_settings(**changes: float) -> Settings:
    """Return the settings of a Gaussian mixture; changes are those of its first component."""
    return Settings.model_validate({"components": [COMPONENTS[0] | changes, COMPONENTS[1]]})


def open_samples(
    path: Path, count: int = 10, teacher: Settings | None = None, **sampler: float
) -> TeacherSamples:
    """Open a folder of samples in five steps of the teacher's sampler. `draw` fills it."""
    teacher = teacher or teacher_settings()
    return TeacherSamples(samples_settings(path, count, **sampler), teacher, teacher.load(), ALONE)


def samples_settings(path: Path, count: int = 10, **sampler: float) -> TeacherSamplesSettings:
    return TeacherSamplesSettings.model_validate(
        {"path": path, "count": count, "sampler": {"steps": 5, **sampler}}
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store four samples in a file."""
    monkeypatch.setattr(distill.training.distillation.teacher_samples, "SHARD", 4)


def test_a_stored_sample_is_the_end_of_the_ode_from_its_stored_noise(tmp_path: Path) -> None:
    """The flow of Gaussian data is known.

    It maps sigma_max z to mean + std (sigma_max z - mean)/sqrt(std^2 + sigma_max^2).
    """
    samples = open_samples(tmp_path / "s", steps=160)
    samples.draw(teacher_settings().load())
    pairs = samples.pairs(torch.arange(10))
    assert pairs.cond.label.tolist() == [0, 1] * 5
    for label, component in enumerate(COMPONENTS):
        mean, std = torch.tensor(component["mean"]), component["std"]
        exact = mean + std * (80 * pairs.z[label::2] - mean) / math.sqrt(std**2 + 80**2)
        torch.testing.assert_close(pairs.x[label::2], exact, atol=2e-3, rtol=0)


def test_samples_are_those_of_their_seeds_and_serve_as_data(tmp_path: Path, small_shards: None) -> None:
    samples = open_samples(tmp_path / "s")
    samples.draw(teacher_settings().load())
    expected = sample_teacher(
        teacher_settings().load(), range(FIRST_SEED, FIRST_SEED + 10), balanced_labels(10, 2), samples.sampler
    )
    assert (len(samples), samples.image_shape, samples.label_count) == (10, (2,), 2)
    for index in range(10):
        image, label = samples[index]
        assert torch.equal(image, expected[index])
        assert label == index % 2


def test_samples_are_drawn_once(tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = open_samples(tmp_path / "s"), open_samples(tmp_path / "s")
    first.draw(teacher_settings().load())
    monkeypatch.setattr(GaussianMixture, "forward", lambda *_: pytest.fail("the teacher was called again"))
    again.draw(teacher_settings().load())
    assert torch.equal(first.stored.x, again.stored.x)
    assert torch.equal(first.stored.z, again.stored.z)


def test_an_interrupted_drawing_continues_where_it_stopped(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_samples(tmp_path / "whole").draw(teacher_settings().load())
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    save = distill.training.distillation.teacher_samples.save_tensors
    written: list[Path] = []

    def save_one(path: Path, tensors: dict[str, torch.Tensor], sealed: bool) -> None:
        save(path, tensors, sealed)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(distill.training.distillation.teacher_samples, "save_tensors", save_one)
    with pytest.raises(KeyboardInterrupt):
        open_samples(tmp_path / "s").draw(teacher_settings().load())
    names = sorted(file.name for file in (tmp_path / "s").iterdir())
    assert names == ["00000000.safetensors", "samples.json"]
    open_samples(tmp_path / "s").draw(teacher_settings().load())
    assert {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()} == whole
    assert len(written) == 2 + 2  # the first file stayed


def test_the_folder_says_how_its_samples_were_drawn(tmp_path: Path) -> None:
    open_samples(tmp_path / "s", count=3, churn=2).draw(teacher_settings().load())
    described = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (described["count"], described["first_seed"], described["sampler"]["churn"]) == (3, 2**32, 2.0)
    assert described["teacher"]["components"][0]["std"] == 0.4
    assert sorted(load_file(tmp_path / "s" / "00000000.safetensors")) == ["label", "x", "z"]


def complaint(path: Path, **changes: Any) -> str:
    """Return the message that refuses a folder of samples."""
    with pytest.raises(UserError) as error:
        open_samples(path, **changes)
    return str(error.value)


def test_samples_of_another_teacher_or_another_sampler_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    open_samples(path).draw(teacher_settings().load())
    other = f"teacher_samples.path: {path} holds other samples: "
    another_std = complaint(path, teacher=teacher_settings(std=0.5))
    assert another_std == other + "teacher.components.0.std is 0.4 there and 0.5 here; give another path"
    assert complaint(path, steps=6) == other + "sampler.steps is 5 there and 6 here; give another path"
    assert complaint(path, count=11) == other + "count is 10 there and 11 here; give another path"
    teacher = teacher_settings().load()
    teacher.means.add_(1)
    message = (
        "holds other samples: teacher_sha256 is '[0-9a-f]{64}' there and '[0-9a-f]{64}' here; "
        "give another path$"
    )
    with pytest.raises(UserError, match=message):
        TeacherSamples(samples_settings(path), teacher_settings(), teacher, ALONE)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    for path in (tmp_path, tmp_path / "note"):
        assert (
            complaint(path)
            == f"teacher_samples.path: {path} is there and holds no samples; expected a new folder"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["note"]


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    open_samples(tmp_path / "s").draw(teacher_settings().load())
    (tmp_path / "s" / "00000000.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"00000000.safetensors: is broken or no safetensors file"):
        open_samples(tmp_path / "s").draw(teacher_settings().load())


def write_laboratory_run(folder: Path, **settings: Any) -> Path:
    """Write a run on stored samples of a Gaussian mixture that uses every part of the method but data."""
    network = {"name": "mlp", "width": 8, "blocks": 1}
    defaults = {
        "teacher": {"name": "gaussian_mixture", "components": COMPONENTS},
        "teacher_samples": {"path": str(folder / "samples"), "count": 40, "sampler": {"steps": 8}},
        "steps": 6,
        "batch_size": 32,
        "generator": {"network": network, "init_noise_to_signal": 2.0},
        "fake": {"network": network},
        "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
        "discriminator": {"reads": "fake", "real": "teacher", "width": 8, "r1": {"weight": 0.1}},
        "ratio": {"bins": 2},
        "terms": [{"name": "regression", "weight": 0.5}, {"name": "gan", "weight": 0.1}],
        "checkpoint_every": 3,
        "monitor_images": 8,
    }
    return write_run(folder, **{**defaults, **settings})


def test_a_run_without_data_learns_from_the_store_and_continues_bit_for_bit(tmp_path: Path) -> None:
    file = write_laboratory_run(tmp_path)
    run = train_run(file)
    assert checkpoint_names(run) == ["step-00000003", "step-00000006"]
    whole = checkpoint_tensors(run)
    assert len(whole) > 100
    assert any(name.startswith("calibration.safetensors:") for name in whole)
    shutil.rmtree(checkpoints(run)[-1])
    train_run(file)
    assert checkpoint_names(run) == ["step-00000003", "step-00000006"]
    assert_same_tensors(checkpoint_tensors(run), whole)


def test_a_run_without_data_logs_every_loss_and_the_ratio_s_errors(tmp_path: Path) -> None:
    run = train_run(write_laboratory_run(tmp_path))
    last = read_lines(run)[5]
    assert min(last[f"loss/{name}"] for name in ("regression", "gan", "r1", "discriminator")) > 0
    assert last["ratio/exact_error"] > 0
    assert last["ratio/calibration_error"] > 0
    calibration = json.loads((run / "calibration.json").read_text())
    assert set(calibration) == {"predicted", "observed", "real", "student", "exact"}


@pytest.mark.parametrize(("reads", "fake"), [("teacher", "mlp"), ("fake", "exact")])
def test_a_discriminator_over_a_network_without_features_is_refused(
    tmp_path: Path, reads: str, fake: str
) -> None:
    file = write_laboratory_run(
        tmp_path,
        fake={"network": {"name": fake}},
        discriminator={"reads": reads, "real": "teacher"},
    )
    assert refusal(file) == (
        f"discriminator.reads: the {reads} has no features; expected the other network, or no discriminator"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def anchored(path: Path, anchor: int | None) -> TeacherSamples:
    """Open a folder of targets of a first step, of five steps of the sampler."""
    settings = samples_settings(path).model_copy(update={"anchor": anchor})
    return TeacherSamples(settings, teacher_settings(), teacher_settings().load(), ALONE)


def test_targets_of_a_first_step_are_stored_apart_from_images(tmp_path: Path) -> None:
    samples, teacher = anchored(tmp_path / "s", 2), teacher_settings().load()
    samples.draw(teacher)
    pairs = samples.pairs(torch.arange(10))
    expected = samples.sampler.solve(teacher, pairs.z, pairs.cond, lambda step: pairs.z, anchor=2)
    torch.testing.assert_close(pairs.x, expected)
    anchored(tmp_path / "s", 2)
    for other in (3, None):
        with pytest.raises(UserError, match="holds other samples: anchor is 2 there"):
            anchored(tmp_path / "s", other)


def test_a_first_step_learns_from_its_regression_alone(tmp_path: Path) -> None:
    """The objective of weight 0 gives the later steps no gradient; the first step alone meets its target."""
    components = [{"mean": [1.0, -1.0], "std": 0.3}]
    file = write_run(
        tmp_path,
        teacher={"name": "gaussian_mixture", "components": components},
        teacher_samples={"path": str(tmp_path / "s"), "count": 8, "anchor": 2, "sampler": {"steps": 4}},
        generator={"network": {"name": "mlp", "width": 16, "blocks": 1}, "steps": 2},
        fake={"network": {"name": "mlp", "width": 16, "blocks": 1}},
        objective={"name": "distribution_matching", "divergence": "reverse_kl", "weight": 0.0},
        terms=[{"name": "regression", "step": 1, "weight": 1.0}],
        batch_size=64,
        steps=60,
    )
    optimizer = ["--generator.optimizer.lr=1e-2", "--generator.optimizer.decay_from=0.5"]
    lines = read_lines(train_run(file, *optimizer))
    assert lines[-1]["loss/regression"] < 0.1 * lines[0]["loss/regression"]
    assert lines[-1]["loss/objective"] == 0
