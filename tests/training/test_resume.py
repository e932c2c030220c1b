"""Interrupted runs continue from their newest checkpoint and end bit for bit as an uninterrupted run does."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.networks.folder import checkpoints
from tests.helpers.runs import (
    ENVIRONMENT,
    assert_same_tensors,
    checkpoint_names,
    checkpoint_tensors,
    logged_steps,
    read_lines,
    refusal,
    train_command,
    train_in_processes,
    train_run,
    write_run,
)


def test_a_run_killed_at_any_moment_continues_bit_for_bit(
    run_file: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """SIGKILL ends a run at a moment that the machine's speed decides; the same command ends it as usual."""
    run = tmp_path / "killed"
    command = train_command(run_file, f"--run_dir={run}")
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not checkpoints(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    steps = re.findall(r'"step": (\d+)', (run / "stats.jsonl").read_text())
    assert int(steps[-1]) >= 4
    leave_unfinished_files(run)
    done = train_in_processes(run_file, f"--run_dir={run}")
    assert done.returncode == 0, done.stderr
    expected = checkpoint_tensors(uninterrupted)
    assert len(expected) > 200
    assert_same_tensors(checkpoint_tensors(run), expected)
    assert logged_steps(run) == list(range(1, 13))
    assert "loss/fake" in read_lines(run)[10]
    assert not list(run.rglob("*.partial"))


def leave_unfinished_files(run: Path) -> None:
    """Leave what a kill in the middle of a checkpoint and of a line leaves, whether or not this one did."""
    folder = run / "checkpoints" / f".step-00000099.{socket.gethostname()}.999999999.partial"
    folder.mkdir()
    (folder / "generator.safetensors").write_bytes(bytes(1000))
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"step": 11, "images": 44}\n{"step": 12, "ima')


def test_a_terminated_run_saves_and_continues_bit_for_bit(
    run_file: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "terminated"
    process = subprocess.Popen(
        train_command(run_file, f"--run_dir={run}"),
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
    done = train_in_processes(run_file, f"--run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(uninterrupted))


def test_a_finished_run_has_nothing_more_to_do(
    run_file: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint_tensors(uninterrupted)
    assert train_run(run_file) == uninterrupted
    assert "finished its 12 steps before; nothing to do" in capsys.readouterr().out
    assert_same_tensors(checkpoint_tensors(uninterrupted), before)


def test_a_run_continues_before_a_damaged_checkpoint(
    run_file: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(uninterrupted, run)
    damaged = checkpoints(run)[-1]
    weights = damaged / "fake.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    message = refusal(run_file, f"--run_dir={run}", f"--resume={damaged}")
    assert message == f"{weights}: is damaged; remove {damaged} to continue from an earlier checkpoint"
    assert checkpoint_names(run) == ["step-00000008", "step-00000012"]
    done = train_in_processes(run_file, f"--run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert (
        f"{damaged}: fake.safetensors is damaged; the run continues from step-00000008, and the damaged "
        "checkpoint is now step-00000012.damaged\n"
    ) in done.stdout
    assert checkpoint_names(run) == ["step-00000008", "step-00000012"]
    assert (run / "checkpoints" / "step-00000012.damaged" / "fake.safetensors").is_file()
    assert_same_tensors(checkpoint_tensors(run), checkpoint_tensors(uninterrupted))
    assert logged_steps(run) == list(range(1, 13))


@pytest.mark.slow
def test_a_run_whose_whole_group_is_terminated_saves_although_workers_read_its_images(tmp_path: Path) -> None:
    """Some schedulers signal every process of a job."""
    for label in range(10):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8), 20 * label + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(label) / f"{number}.png")
    file = write_run(
        tmp_path,
        steps=100_000,
        data={"name": "image_folder", "path": str(tmp_path / "images"), "grey": True},
        data_workers=2,
        discriminator={"depths": ["bottleneck"], "width": 8},
        terms=[{"name": "gan", "weight": 0.1}],
        sample_every=100_000,
        monitor_every=100_000,
    )
    process = subprocess.Popen(
        train_command(file),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "run" / "stats.jsonl").is_file() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "SIGTERM: saved at step" in output
    assert "Traceback" not in errors
