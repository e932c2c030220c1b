"""Samples of the teacher, stored: what they are, that they are drawn once, and whose they are."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import distill.training.distillation.teacher_samples
from distill.config.errors import UserError
from distill.diffusion.sampling import balanced_labels, sample_teacher
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.folder import checkpoints
from distill.teachers.gaussian_mixture import Settings
from distill.training.config import read_config
from distill.training.distillation.settings import TeacherSamplesSettings
from distill.training.distillation.teacher_samples import FIRST_SEED, TeacherSamples
from distill.training.launch import launch

COMPONENTS = [{"mean": [0.5, -1.0], "std": 0.4, "label": 0}, {"mean": [-2.0, 1.0], "std": 0.7, "label": 1}]


def source(**changes: float) -> Settings:
    return Settings.model_validate({"components": [COMPONENTS[0] | changes, COMPONENTS[1]]})


def store(path: Path, count: int = 10, teacher: Settings | None = None, **sampler: float) -> TeacherSamples:
    teacher = teacher or source()
    settings = TeacherSamplesSettings.model_validate(
        {"path": path, "count": count, "sampler": {"steps": 5, **sampler}}
    )
    return TeacherSamples(settings, teacher, teacher.load())


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill.training.distillation.teacher_samples, "SHARD", 4)


def never(*_: object) -> None:
    raise AssertionError("the teacher was asked again")


def test_a_stored_sample_is_the_end_of_the_ode_from_its_stored_noise(tmp_path: Path) -> None:
    """For Gaussian data the flow maps sigma_max z to mean + std (sigma_max z - mean)/sqrt(std^2 + sigma_max^2)."""
    samples = store(tmp_path / "s", steps=160)
    samples.draw(source().load())
    pairs = samples.pairs(torch.arange(10))
    assert pairs.cond.label.tolist() == [0, 1] * 5
    for label, component in enumerate(COMPONENTS):
        mean, std = torch.tensor(component["mean"]), component["std"]
        exact = mean + std * (80 * pairs.z[label::2] - mean) / math.sqrt(std**2 + 80**2)
        torch.testing.assert_close(pairs.x[label::2], exact, atol=2e-3, rtol=0)


def test_samples_are_those_of_their_seeds_and_serve_as_data(tmp_path: Path, small_shards: None) -> None:
    samples = store(tmp_path / "s")
    samples.draw(source().load())
    expected = sample_teacher(
        source().load(), range(FIRST_SEED, FIRST_SEED + 10), balanced_labels(10, 2), samples.sampler
    )
    assert (len(samples), samples.image_shape, samples.label_count) == (10, (2,), 2)
    for index in range(10):
        image, label = samples[index]
        assert torch.equal(image, expected[index])
        assert label == index % 2


def test_samples_are_drawn_once(tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = store(tmp_path / "s"), store(tmp_path / "s")
    first.draw(source().load())
    monkeypatch.setattr(GaussianMixture, "forward", never)
    again.draw(source().load())
    assert torch.equal(first.stored.x, again.stored.x)
    assert torch.equal(first.stored.z, again.stored.z)


def test_an_interrupted_drawing_continues_where_it_stopped(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "whole").draw(source().load())
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    save, written = distill.training.distillation.teacher_samples.save_tensors, []

    def save_one(path: Path, tensors: dict[str, torch.Tensor], sealed: bool) -> None:
        save(path, tensors, sealed)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(distill.training.distillation.teacher_samples, "save_tensors", save_one)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "s").draw(source().load())
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [
        "00000000.safetensors",
        "samples.json",
    ]
    store(tmp_path / "s").draw(source().load())
    assert {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()} == whole
    assert len(written) == 2 + 2  # the first shard stayed


def test_the_folder_says_how_its_samples_were_drawn(tmp_path: Path) -> None:
    store(tmp_path / "s", count=3, churn=2).draw(source().load())
    described = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (described["count"], described["first_seed"], described["sampler"]["churn"]) == (3, 2**32, 2.0)
    assert described["teacher"]["components"][0]["std"] == 0.4
    assert sorted(load_file(tmp_path / "s" / "00000000.safetensors")) == ["label", "x", "z"]


def refused(*arguments: object, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        store(*arguments, **changes)
    return str(error.value)


def test_samples_of_another_teacher_or_another_sampler_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store(path).draw(source().load())
    said = f"teacher_samples.path: {path} holds other samples: "
    assert (
        refused(path, teacher=source(std=0.5))
        == said + "teacher.components.0.std is 0.4 there and 0.5 here; give another path"
    )
    assert refused(path, steps=6) == said + "sampler.steps is 5 there and 6 here; give another path"
    assert refused(path, count=11) == said + "count is 10 there and 11 here; give another path"
    teacher = source().load()
    teacher.means.add_(1)
    with pytest.raises(
        UserError,
        match=r"holds other samples: teacher_sha256 is '[0-9a-f]{64}' there and '[0-9a-f]{64}' here; give another path$",
    ):
        TeacherSamples(
            TeacherSamplesSettings.model_validate({"path": path, "count": 10, "sampler": {"steps": 5}}),
            source(),
            teacher,
        )


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    for path in (tmp_path, tmp_path / "note"):
        assert (
            refused(path)
            == f"teacher_samples.path: {path} is there and holds no samples; expected a new folder"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["note"]


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    store(tmp_path / "s").draw(source().load())
    (tmp_path / "s" / "00000000.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"00000000.safetensors: is broken or no safetensors file"):
        store(tmp_path / "s").draw(source().load())


LABORATORY = {
    "task": "distill",
    "teacher": {"name": "gaussian_mixture", "components": COMPONENTS},
    "teacher_samples": {"count": 40, "sampler": {"steps": 8}},
    "steps": 6,
    "batch_size": 32,
    "generator": {"network": {"name": "mlp", "width": 8, "blocks": 1}, "init_noise_to_signal": 2.0},
    "fake": {"network": {"name": "mlp", "width": 8, "blocks": 1}},
    "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
    "discriminator": {"reads": "fake", "real": "teacher", "width": 8, "r1": {"weight": 0.1}},
    "ratio": {"bins": 2},
    "terms": [{"name": "regression", "weight": 0.5}, {"name": "gan", "weight": 0.1}],
    "log_every": 1,
    "checkpoint_every": 3,
    "monitor_images": 8,
    "device": "cpu",
}


def test_a_run_without_data_learns_from_the_store_and_continues_bit_for_bit(tmp_path: Path) -> None:
    config = LABORATORY | {"run_dir": str(tmp_path / "run")}
    config["teacher_samples"] = config["teacher_samples"] | {"path": str(tmp_path / "samples")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    states = []
    for _ in range(2):
        assert launch(read_config(tmp_path / "run.yaml")) == 0
        before, last = checkpoints(tmp_path / "run")
        states.append(
            {
                f"{file.name}:{name}": value
                for file in sorted(last.glob("*.safetensors"))
                for name, value in load_file(file).items()
            }
        )
        assert before.name == "step-00000003"
        shutil.rmtree(last)
    assert len(states[0]) > 100
    assert any(name.startswith("calibration.safetensors:") for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    line = json.loads((tmp_path / "run" / "stats.jsonl").read_text().splitlines()[5])
    assert min(line[f"loss/{name}"] for name in ("regression", "gan", "r1", "discriminator")) > 0
    assert line["ratio/exact_error"] > 0
    assert line["ratio/calibration_error"] > 0
    assert set(json.loads((tmp_path / "run" / "calibration.json").read_text())) == {
        "predicted",
        "observed",
        "real",
        "student",
        "exact",
    }


@pytest.mark.parametrize(("reads", "fake"), [("teacher", "mlp"), ("fake", "exact")])
def test_a_discriminator_over_a_network_without_features_is_refused(
    tmp_path: Path, reads: str, fake: str
) -> None:
    samples = LABORATORY["teacher_samples"] | {"path": str(tmp_path / "samples")}
    changed = {
        "teacher_samples": samples,
        "fake": {"network": {"name": fake}},
        "discriminator": {"reads": reads, "real": "teacher"},
    }
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(LABORATORY | changed | {"run_dir": str(tmp_path / "run")})
    )
    with pytest.raises(
        UserError,
        match=f"^discriminator.reads: the {reads} has no features; expected the other network, or no discriminator$",
    ):
        launch(read_config(tmp_path / "run.yaml"))
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]
