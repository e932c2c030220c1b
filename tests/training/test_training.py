"""Whole runs, through the command line: they finish, continue bit for bit, stop cleanly, and refuse what they should."""

import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill import load_generator, load_teacher
from distill.config.command_line import run_command
from distill.config.errors import TrainingError, UserError
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.networks.folder import checkpoints
from distill.storage.provenance import version
from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.launch import build_accelerator, launch
from distill.training.logging import Clock
from distill.training.memory_shortage import held_parts
from tests.helpers.random_teacher import save_random_teacher

TRAIN = [sys.executable, "train.py"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of random weights and a configuration that uses everything: discriminator, R1, ratio, GAN, regression, two fake updates, dropout."""
    folder = tmp_path_factory.mktemp("runs")
    save_random_teacher(folder / "teacher", dropout=0.1)
    config = {
        "task": "distill",
        "run_dir": str(folder / "run"),
        "data": {"name": "digits"},
        "teacher": {"name": "native", "path": str(folder / "teacher")},
        "steps": 12,
        "batch_size": 4,
        "objective": {"name": "expanded_divergence", "divergence": "0.4*forward_kl+0.6*reverse_kl"},
        "fake": {"updates": 2},
        "discriminator": {
            "reads": "fake",
            "depths": ["4"],
            "width": 8,
            "r1": {"weight": 0.1, "approximate": True},
        },
        "teacher_samples": {"path": str(folder / "samples"), "count": 6, "sampler": {"steps": 2}},
        "ratio": {"bins": 2},
        "terms": [{"name": "gan", "weight": 0.1, "start_step": 2}, {"name": "regression", "weight": 0.2}],
        "log_every": 1,
        "sample_every": 6,
        "checkpoint_every": 4,
        "monitor_every": 12,
        "monitor_images": 16,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def train(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRAIN, str(folder / "run.yaml"), *overrides],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The uninterrupted run."""
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def state(run: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoints(run)[-1].glob("*.safetensors"))
    return {f"{file.name}:{name}": value for file in files for name, value in load_file(file).items()}


def assert_same_state(one: Path, other: Path) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert len(first) > 200
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def refused(folder: Path, *arguments: str) -> str:
    """The one line that answers these overrides; in this process, which is faster."""
    with pytest.raises(UserError) as error:
        launch(read_config(folder / "run.yaml", arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_leaves_statistics_samples_checkpoints_and_an_export(whole: Path) -> None:
    stats = lines(whole)
    assert [line["step"] for line in stats] == list(range(1, 13))
    assert [line["images"] for line in stats] == list(range(4, 49, 4))
    assert "loss/gan" not in stats[1]
    assert stats[2]["loss/gan"] > 0
    assert stats[-1]["monitor/n"] == 16
    assert stats[-1]["monitor/fd_pixel"] > 0
    assert [path.name for path in sorted((whole / "samples").iterdir())] == [
        f"step-{step:08d}.png" for step in (0, 6, 12)
    ]
    assert [path.name for path in checkpoints(whole)] == ["step-00000008", "step-00000012"]
    assert not list(whole.rglob("*.partial"))
    assert yaml.safe_load((whole / "config.yaml").read_text())["fake"]["noise_levels"]["std"] == 1.2


def test_run_checkpoint_and_export_open_as_the_same_generator(whole: Path) -> None:
    images = [
        sample_generator(load_generator(path), range(3), balanced_labels(3, 10))
        for path in (whole, whole / "export", checkpoints(whole)[-1])
    ]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert images[0].shape == (3, 1, 8, 8)


def test_a_run_killed_at_any_moment_continues_bit_for_bit(folder: Path, whole: Path) -> None:
    """SIGKILL while training, at a moment that the machine's speed decides; the same command then ends with the same state."""
    run = folder / "killed"
    process = subprocess.Popen(
        [*TRAIN, str(folder / "run.yaml"), "--run_dir", str(run)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not checkpoints(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    reached = int((run / "stats.jsonl").read_text().splitlines()[-1].split(",")[0].split()[-1])
    assert reached >= 4
    # What a kill in the middle of a checkpoint and of a line leaves, whether or not this one did.
    left = run / "checkpoints" / f".step-00000099.{socket.gethostname()}.999999999.partial"
    left.mkdir()
    (left / "generator.safetensors").write_bytes(bytes(1000))
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"step": 11, "images": 44}\n{"step": 12, "ima')
    done = train(folder, "--run_dir", str(run))
    assert done.returncode == 0, done.stderr
    assert_same_state(run, whole)
    assert [line["step"] for line in lines(run)] == list(range(1, 13))
    assert "loss/fake" in lines(run)[10]
    assert not list(run.rglob("*.partial"))


def test_a_terminated_run_saves_and_continues_bit_for_bit(folder: Path, whole: Path) -> None:
    run = folder / "terminated"
    process = subprocess.Popen(
        [*TRAIN, str(folder / "run.yaml"), "--run_dir", str(run)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not (run / "stats.jsonl").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: saved at step" in output
    stopped = int(checkpoints(run)[-1].name.removeprefix("step-"))
    assert 0 < stopped < 12
    assert train(folder, "--run_dir", str(run)).returncode == 0
    assert_same_state(run, whole)


def test_a_finished_run_has_nothing_more_to_do(folder: Path, whole: Path) -> None:
    before = state(whole)
    done = train(folder)
    assert done.returncode == 0, done.stderr
    assert "finished 12 steps" in done.stdout
    after = state(whole)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_micro_batches_change_nothing_but_rounding(folder: Path, whole: Path) -> None:
    """Without dropout, whose masks depend on the shape of a batch."""
    ends = []
    for size in ("null", "3"):
        run = folder / f"micro-{size}"
        shutil.copytree(folder / "teacher", folder / "calm", dirs_exist_ok=True)
        description = json.loads((folder / "calm" / "config.json").read_text())
        description["network"]["dropout"] = 0.0
        (folder / "calm" / "config.json").write_text(json.dumps(description))
        changes = [
            "--teacher.path",
            str(folder / "calm"),
            "--run_dir",
            str(run),
            "--steps",
            "3",
            "--micro_batch_size",
            size,
        ]
        done = train(folder, *changes)
        assert done.returncode == 0, done.stderr
        ends.append(lines(run)[-1])
    losses = [f"loss/{name}" for name in ("objective", "gan", "regression", "fake", "r1")]
    for name in (*losses, "ratio/scale", "grad_norm/generator"):
        assert ends[0][name] == pytest.approx(ends[1][name], rel=2e-3), name


def test_another_run_s_folder_is_left_alone(folder: Path, whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert "holds another run: generator.ema is 0.999 there and 0.5 here" in refused(
        folder, "--generator.ema", "0.5"
    )
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_run_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in refused(folder, "--run_dir", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/run cannot be made" in refused(folder, "--run_dir", str(tmp_path / "file" / "run"))


def test_a_damaged_checkpoint_is_named(folder: Path, whole: Path) -> None:
    run = folder / "damaged"
    shutil.copytree(whole, run)
    weights = checkpoints(run)[-1] / "fake.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    message = refused(folder, "--run_dir", str(run))
    assert "fake.safetensors: is damaged" in message
    assert "step-00000012 to continue from an earlier checkpoint" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--teacher.path", "nowhere"], "nowhere: no such folder"),
        (
            ["--discriminator.depths", "[bottlneck]"],
            "discriminator.depths: 'bottlneck' is not a depth of the fake; did you mean 'bottleneck'?",
        ),
        (
            ["--data", "{name: image_folder, path: nowhere}"],
            "nowhere: cannot be read (No such file or directory); expected a folder, a .zip or a .tar",
        ),
        (["--device", "cuda"], "device: cuda is not available"),
        (["--resume", "nowhere"], "resume: nowhere is no checkpoint"),
        (["--generator.init_from", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_run_is_said_in_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    assert message in refused(folder, "--run_dir", str(tmp_path / "new"), *overrides)
    assert not list(tmp_path.glob("new/*"))


def test_a_tracker_that_is_not_installed_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "trackers: trackio is not installed" in refused(
        folder, "--run_dir", str(tmp_path / "new"), "--trackers", "[trackio]"
    )
    assert not (tmp_path / "new").exists()


def test_a_refusal_is_one_line_on_stderr_and_exit_code_two(folder: Path) -> None:
    done = train(folder, "--generator.emma", "1")
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {folder / 'run.yaml'}: generator: unknown key 'emma'; did you mean 'ema'?\n"
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "diverging"
    done = train(folder, "--run_dir", str(run), "--fake.optimizer.lr", "1e30", "--checkpoint_every", "1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: step ")
    assert "is nan" in done.stderr or "is inf" in done.stderr
    assert "the last checkpoint is untouched" in done.stderr
    for checkpoint in checkpoints(run):
        assert (checkpoint / "manifest.json").is_file()


def test_a_student_starts_from_another_student(folder: Path, whole: Path) -> None:
    run = folder / "continued"
    done = train(
        folder,
        "--run_dir",
        str(run),
        "--steps",
        "1",
        "--generator.init_from",
        str(whole),
        "--generator.optimizer.lr",
        "1e-12",
    )
    assert done.returncode == 0, done.stderr
    start, end = (
        load_file(whole / "export" / "model.safetensors"),
        load_file(run / "export" / "model.safetensors"),
    )
    for name, value in start.items():
        torch.testing.assert_close(end[name], value)
    message = refused(
        folder,
        "--run_dir",
        str(folder / "other"),
        "--generator.init_from",
        str(whole),
        "--generator.init_noise_to_signal",
        "2",
    )
    assert "generator.init_noise_to_signal: is 2; expected 80 as in" in message


def test_a_teacher_is_trained_and_opens(folder: Path) -> None:
    run = folder / "teacher-run"
    config = {
        "task": "train_teacher",
        "run_dir": str(run),
        "data": {"name": "digits"},
        "steps": 3,
        "batch_size": 8,
        "network": {"width": 8},
    }
    (folder / "teacher.yaml").write_text(yaml.safe_dump(config | {"monitor_images": 4}))
    done = subprocess.run(
        [*TRAIN, str(folder / "teacher.yaml")], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    teacher = load_teacher(run)
    assert teacher.image_shape == (1, 8, 8)
    assert teacher.label_count == 10
    assert lines(run)[-1]["loss/teacher"] > 0


def test_a_lack_of_memory_is_one_line_that_says_what_was_held_and_what_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(self: object, step: int, detailed: bool) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"
        )

    monkeypatch.setattr(Distillation, "update", update)
    config = read_config(
        folder / "run.yaml",
        ["--run_dir", str(folder / "crowded"), "--discriminator.r1", "{weight: 0.1}", "--device", "cpu"],
    )
    with pytest.raises(TrainingError) as error:
        launch(config)
    message = str(error.value)
    assert message.startswith("out of memory on cpu: weights 0.0")
    assert "gradients 0.00 GiB, optimisers 0.00 GiB, average 0.00 GiB were held" in message
    assert (
        "lower micro_batch_size to 2 (now 4), or set activation_checkpointing: true, or set precision: bf16"
        in message
    )
    assert "set discriminator.r1.at: features; the last checkpoint is untouched" in message
    assert "\n" not in message


def test_what_a_run_holds_is_counted_once(folder: Path) -> None:
    """Adam's two moments of every weight that learns, one average of the generator, and every network's weights."""
    config = read_config(folder / "run.yaml", ["--run_dir", str(folder / "counted"), "--device", "cpu"])
    task = Distillation(config, build_accelerator(config), Clock())
    task.start(0)
    task.update(0, False)
    held = held_parts(task)
    size = lambda network: sum(parameter.numel() for parameter in network.parameters())  # noqa: E731
    learning = [task.networks.generator, task.networks.fake, task.networks.discriminator]
    assert held["optimisers"] >= 2 * 4 * sum(map(size, learning))
    assert held["average"] == 4 * size(task.ema.average)
    assert held["weights"] >= 4 * sum(map(size, [task.teacher, *learning]))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "error: out of memory (the machine has no more); lower --batch-size"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            ),
            "error: out of memory ([enforce fail at alloc_cpu.cpp:118] err == 0); lower --batch-size",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "error: out of memory (CUDA out of memory); lower --batch-size",
        ),
    ],
)
def test_any_command_ends_in_one_line_where_memory_lacks(
    error: Exception, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main, on_shortage="lower --batch-size")
    assert ended.value.code == 1
    assert capsys.readouterr().err == expected + "\n"


def test_an_error_of_another_kind_keeps_its_traceback() -> None:
    def main(arguments: list[str]) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_command(main)


def test_a_checkout_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", lookup)
    assert version("distill") == "not installed"
