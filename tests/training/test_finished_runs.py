"""Whole runs from their configuration to their end: what they log, save and export."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill import load_generator, load_teacher
from distill.config.errors import TrainingError
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.networks.folder import checkpoints
from distill.training.config import read_config
from distill.training.dry_run.summary import describe_run
from tests.helpers.full_disk import fail_for_lack_of_space
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import checkpoint_names, read_lines, refusal, train_run, write_run


def test_a_run_leaves_statistics_samples_checkpoints_and_an_export(uninterrupted: Path) -> None:
    stats = read_lines(uninterrupted)
    assert [line["step"] for line in stats] == list(range(1, 13))
    assert [line["images"] for line in stats] == list(range(4, 49, 4))
    assert "loss/gan" not in stats[1]
    assert stats[2]["loss/gan"] > 0
    assert stats[-1]["monitor/n"] == 16
    assert stats[-1]["monitor/fd_pixel"] > 0
    samples = sorted(path.name for path in (uninterrupted / "samples").iterdir())
    assert samples == [f"step-{step:08d}.png" for step in (0, 6, 12)]
    assert checkpoint_names(uninterrupted) == ["step-00000008", "step-00000012"]
    assert not list(uninterrupted.rglob("*.partial"))
    config = yaml.safe_load((uninterrupted / "config.yaml").read_text())
    assert config["fake"]["noise_levels"]["std"] == 1.2


def test_run_checkpoint_and_export_open_as_the_same_generator(uninterrupted: Path) -> None:
    sources = (uninterrupted, uninterrupted / "export", checkpoints(uninterrupted)[-1])
    images = [sample_generator(load_generator(path), range(3), balanced_labels(3, 10)) for path in sources]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert images[0].shape == (3, 1, 8, 8)


def test_micro_batches_change_only_the_rounding(run_file: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The teacher has no dropout, whose masks depend on the shape of a batch."""
    save_random_teacher(tmp_path / "teacher")
    changes = [f"--teacher.path={tmp_path / 'teacher'}", "--steps=3"]
    whole, split = (
        train_run(run_file, *changes, f"--run_dir={tmp_path / size}", f"--micro_batch_size={size}")
        for size in ("null", "3")
    )
    last, other_last = read_lines(whole)[-1], read_lines(split)[-1]
    losses = [f"loss/{name}" for name in ("objective", "gan", "regression", "fake", "r1")]
    for name in (*losses, "ratio/scale", "grad_norm/generator"):
        assert last[name] == pytest.approx(other_last[name], rel=2e-3), name


def test_a_student_starts_from_another_student(run_file: Path, uninterrupted: Path, tmp_path: Path) -> None:
    start_from = f"--generator.init_from={uninterrupted}"
    still = ["--steps=1", "--generator.optimizer.lr=1e-12"]
    run = train_run(run_file, f"--run_dir={tmp_path / 'continued'}", *still, start_from)
    start = load_file(uninterrupted / "export" / "model.safetensors")
    end = load_file(run / "export" / "model.safetensors")
    for name, value in start.items():
        torch.testing.assert_close(end[name], value)
    message = refusal(
        run_file, f"--run_dir={tmp_path / 'other'}", start_from, "--generator.init_noise_to_signal=2"
    )
    assert "generator.init_noise_to_signal: is 2; expected 80 as in" in message


def test_a_teacher_is_trained_and_opens(tmp_path: Path) -> None:
    config = {
        "task": "train_teacher",
        "run_dir": str(tmp_path / "run"),
        "data": {"name": "digits"},
        "steps": 3,
        "batch_size": 8,
        "network": {"width": 8, "multipliers": [1], "blocks": 1},
        "monitor_images": 4,
        "device": "cpu",
    }
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(config))
    run = train_run(tmp_path / "teacher.yaml")
    teacher = load_teacher(run)
    assert teacher.image_shape == (1, 8, 8)
    assert teacher.label_count == 10
    assert read_lines(run)[-1]["loss/teacher"] > 0


STILL = {
    "task": "train_teacher",
    "data": {"name": "digits"},
    "steps": 1,
    "network": {"width": 8, "multipliers": [1], "blocks": 1},
    "optimizer": {"lr": 1e-12},
    "monitor_every": None,
    "sample_every": 9,
}


def test_a_teacher_starts_from_another_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.training.trainer.preview_count", lambda shape: 2)
    start = save_random_teacher(tmp_path / "start", multipliers=(1,)).state_dict()
    file = write_run(tmp_path, **STILL, init_from=str(tmp_path / "start"))
    run = train_run(file)
    for source in (run / "export", checkpoints(run)[-1]):
        assert_close(load_file(source / "model.safetensors"), start)
    again = train_run(file, f"--init_from={run}", f"--run_dir={tmp_path / 'again'}")
    assert_close(load_file(again / "export" / "model.safetensors"), start)
    message = refusal(file, f"--run_dir={tmp_path / 'other'}", "--network.width=12")
    assert f"{tmp_path / 'start'}: weights of another architecture: " in message
    assert not (tmp_path / "other").exists()
    nowhere = "--init_from=nowhere"
    assert refusal(file, f"--run_dir={tmp_path / 'other'}", nowhere).startswith("nowhere: no such folder")
    needs_no_weights = describe_run(read_config(file, [nowhere]), memory=2**30)
    assert "learning rate of optimizer: 1e-12, constant" in needs_no_weights


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_average_of_a_teacher_may_have_a_half_life_in_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a half-life as long as a batch, the average is the mean of the weights before and after."""
    monkeypatch.setattr("distill.training.trainer.preview_count", lambda shape: 2)
    start = save_random_teacher(tmp_path / "start", multipliers=(1,)).state_dict()
    settings = {**STILL, "optimizer": {"lr": 0.01}, "batch_size": 2, "init_from": str(tmp_path / "start")}
    file = write_run(tmp_path, **settings, ema={"half_life_images": 2, "rampup": None})
    newest = checkpoints(train_run(file))[-1]
    latest = load_file(newest / "teacher.safetensors")
    average = load_file(newest / "model.safetensors")
    parameters = [name for name, value in start.items() if not torch.equal(latest[name], value)]
    assert len(parameters) > 10
    for name in parameters:
        torch.testing.assert_close(average[name], (start[name] + latest[name]) / 2)


@pytest.mark.parametrize(
    ("writes", "names"),
    [
        ("launch.record_run", "run"),
        ("trainer.append_line", "run/stats.jsonl"),
        ("trainer.save_samples_picture", "run/samples/step-00000000.png"),
        ("launch.record_finish", "run"),
    ],
)
def test_a_full_disk_ends_a_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: str, names: str
) -> None:
    monkeypatch.setattr(f"distill.training.{writes}", fail_for_lack_of_space)
    with pytest.raises(TrainingError) as error:
        train_run(write_run(tmp_path))
    assert str(error.value) == (
        f"{tmp_path / names}: cannot be written (No space left on device); what was written before is kept"
    )
