"""Runs that cannot start are refused in one line, and leave the folders that they find as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.errors import UserError
from distill.networks.folder import checkpoints, save_model
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.training.config import read_config
from distill.training.dry_run.summary import describe_run
from tests.helpers.runs import refusal, train_in_processes, write_run


def test_the_folder_of_another_run_is_left_alone(run_file: Path, uninterrupted: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    message = refusal(run_file, "--generator.ema", "0.5")
    assert "holds another run: generator.ema is 0.999 there and 0.5 here" in message
    after = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    assert after == before


def test_a_folder_that_is_no_run_is_left_alone(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in refusal(run_file, f"--run_dir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_named(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/run cannot be made" in refusal(run_file, f"--run_dir={tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--teacher.path", "nowhere"], "nowhere: no such folder"),
        (
            ["--discriminator.depths", "[bottlneck]"],
            "discriminator.depths: 'bottlneck' is not a depth of the fake; did you mean 'bottleneck'?",
        ),
        (["--discriminator.depths", "[]"], "discriminator.depths: "),
        (
            ["--data", "{name: image_folder, path: nowhere}"],
            "nowhere: cannot be read (No such file or directory); expected a folder, a .zip or a .tar",
        ),
        (["--device", "cuda"], "device: cuda is not available"),
        (["--resume", "nowhere"], "resume: nowhere is no checkpoint"),
        (
            ["--generator.noise_levels", "{name: uniform}", "--fake.warmup_steps", "100"],
            "noise_levels: uniform needs a schedule that ends; expected karras or lognormal for EDM",
        ),
        (["--generator.init_from", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_run_that_cannot_start_is_refused_and_writes_nothing(
    run_file: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    assert message in refusal(run_file, f"--run_dir={tmp_path / 'new'}", *overrides)
    assert not list(tmp_path.glob("new/*"))


def test_a_tracker_that_is_not_installed_is_named(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal(run_file, f"--run_dir={tmp_path / 'new'}", "--trackers=[trackio]")
    assert "trackers: trackio is not installed" in message
    assert not (tmp_path / "new").exists()


CAPTIONED = {"name": "emoji", "resolution": 8, "categories": ["food"], "condition": "captions"}
DDPM = {
    "class_name": "DDPMPipeline",
    "denoiser": {
        "class_name": "UNet2DModel",
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "norm_num_groups": 4,
    },
    "scheduler": {"class_name": "DDPMScheduler"},
}


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "train_teacher"},
        {"task": "train_teacher", "pipeline": DDPM},
        {"monitor_every": None},
    ],
    ids=["our network", "pipeline without text", "native teacher"],
)
def test_captions_of_a_network_that_takes_no_text_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "teacher").mkdir()
    save_model(UNet(UNetConfig(8, 3, 0, UNetSizes(width=8, blocks=1))), tmp_path / "teacher")
    message = refusal(write_run(tmp_path, data=CAPTIONED, **settings))
    assert message.startswith("data: has captions, and the network takes no text; expected a pipeline that ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pipeline", [None, DDPM], ids=["our network", "pipeline without classes"])
def test_dropout_of_labels_that_are_not_there_is_refused(
    tmp_path: Path, pipeline: dict[str, Any] | None
) -> None:
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8))
    data = {"name": "array", "path": str(tmp_path / "images.npy")}
    file = write_run(tmp_path, task="train_teacher", data=data, pipeline=pipeline, label_dropout=0.1)
    assert refusal(file) == (
        "label_dropout: is 0.1, and the network has neither labels nor captions; expected 0"
    )


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"guidance": {"fake_training": 2.0}}, "guidance.fake_training"),
        (
            {
                "terms": [{"name": "regression", "weight": 1.0}],
                "teacher_samples": {"path": "samples", "count": 4, "sampler": {"guidance": 2.0}},
            },
            "teacher_samples.sampler.guidance",
        ),
    ],
)
def test_guidance_of_a_teacher_without_a_condition_is_refused(
    tmp_path: Path, settings: dict[str, Any], name: str
) -> None:
    teacher = {"name": "gaussian_mixture", "components": [{"mean": [0.0, 0.0], "std": 1.0}]}
    student = {"network": {"name": "mlp"}}
    file = write_run(tmp_path, teacher=teacher, generator=student, fake=student, **settings)
    assert refusal(file) == f"{name}: is 2, and the teacher has no condition; expected 1"


def test_a_dry_run_refuses_captions_of_a_network_that_takes_no_text(tmp_path: Path) -> None:
    config = read_config(write_run(tmp_path, task="train_teacher", data=CAPTIONED))
    with pytest.raises(UserError, match="data: has captions, and the network takes no text"):
        describe_run(config, memory=2**30)


def test_a_refusal_is_one_line_on_stderr_and_exit_code_two(run_file: Path) -> None:
    done = train_in_processes(run_file, "--generator.emma", "1")
    assert done.returncode == 2
    assert done.stderr == f"error: {run_file}: generator: unknown key 'emma'; did you mean 'ema'?\n"


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    run_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "diverging"
    done = train_in_processes(
        run_file, f"--run_dir={run}", "--fake.optimizer.lr=1e30", "--checkpoint_every=1"
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: step ")
    assert "is nan" in done.stderr or "is inf" in done.stderr
    assert "the last checkpoint is untouched" in done.stderr
    for checkpoint in checkpoints(run):
        assert (checkpoint / "manifest.json").is_file()
