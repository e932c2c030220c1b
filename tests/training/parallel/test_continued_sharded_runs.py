"""Sharded runs continue from their checkpoints: bit for bit, on other processes, and after damage."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from distill.networks.folder import checkpoints
from distill.training.checkpoints.damage import require_whole
from tests.helpers.alone import ALONE
from tests.helpers.checkpoints_in_processes import different, saved_tensors
from tests.helpers.launched_runs import error_lines, launched, workers
from tests.helpers.runs import (
    checkpoint_names,
    logged_steps,
    train_command,
    train_in_processes,
    write_run,
)

pytestmark = pytest.mark.slow
SHARDED = "--sharding.strategy=full"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run whose networks have weights of one row and of three."""
    return write_run(
        tmp_path_factory.mktemp("sharded"),
        data={"name": "digits"},
        steps=6,
        batch_size=4,
        objective={"name": "expanded_divergence", "divergence": "reverse_kl"},
        discriminator={"reads": "fake", "depths": ["4"], "width": 8},
        ratio={"bins": 2},
        terms=[{"name": "gan", "weight": 0.1}],
        checkpoint_every=2,
        sample_every=6,
        monitor_every=6,
        monitor_images=8,
    )


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    """Train the run in two processes without interruption. Tests leave its folder as it is."""
    done = train_in_processes(file, SHARDED, processes=2)
    assert done.returncode == 0, done.stderr
    return file.parent / "run"


def test_a_damaged_shard_is_named_and_the_run_continues_before_it_bit_for_bit(
    file: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damaged = checkpoints(run)[-1]
    shard = damaged / "generator.optimizer.shard-0002-of-0002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    refused = train_in_processes(file, SHARDED, f"--run_dir={run}", f"--resume={damaged}", processes=2)
    assert refused.returncode != 0
    assert error_lines(refused.stderr) == [
        f"error: {shard}: is damaged; remove {damaged} to continue from an earlier checkpoint"
    ]
    done = train_in_processes(file, SHARDED, f"--run_dir={run}", processes=2)
    assert done.returncode == 0, done.stderr
    line = (
        f"{damaged}: {shard.name} is damaged; the run continues from step-00000004, and the damaged "
        "checkpoint is now step-00000006.damaged"
    )
    assert done.stdout.count(line) == 1
    assert "equal up to" not in done.stdout
    assert checkpoint_names(run) == ["step-00000004", "step-00000006"]
    assert (run / "checkpoints" / "step-00000006.damaged" / shard.name).is_file()
    assert different(saved_tensors(damaged), saved_tensors(checkpoints(whole)[-1])) == []
    assert logged_steps(run) == [1, 2, 3, 4, 5, 6]


def test_a_run_continues_on_other_processes_equal_up_to_sums(file: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(checkpoints(run)[-1])
    done = train_in_processes(file, f"--run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert (
        "processes: 1 with sharding none, before 2 with sharding full; the run continues, equal up to the "
        "order of sums"
    ) in done.stdout
    last = checkpoints(run)[-1]
    assert (last / "generator.safetensors").is_file()
    found, expected = saved_tensors(last), saved_tensors(checkpoints(whole)[-1])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert any(not torch.equal(found[name], value) for name, value in expected.items())


def test_a_process_killed_in_a_run_leaves_a_run_that_continues_bit_for_bit(
    file: Path, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL ends the second process while the second checkpoint is written, or soon after."""
    run = tmp_path / "run"
    with launched(train_command(file, SHARDED, f"--run_dir={run}", processes=2)) as launcher:
        end = time.monotonic() + 240
        while not checkpoints(run) and time.monotonic() < end:
            time.sleep(0.01)
        (victim,) = [process for number, process in workers(launcher).items() if number == 1]
        while (
            not list((run / "checkpoints").glob(".step-00000004.*"))
            and not (run / "checkpoints" / "step-00000004").is_dir()
        ):
            assert launcher.poll() is None
        os.kill(victim, signal.SIGKILL)
        launcher.wait(timeout=240)
    assert 0 < len(checkpoints(run)) < 3
    for path in checkpoints(run):
        require_whole(path, ALONE)
    done = train_in_processes(file, SHARDED, f"--run_dir={run}", processes=2)
    assert done.returncode == 0, done.stderr
    assert not list(run.rglob("*.partial"))
    assert checkpoint_names(run) == ["step-00000004", "step-00000006"]
    assert different(saved_tensors(checkpoints(run)[-1]), saved_tensors(checkpoints(whole)[-1])) == []
    assert logged_steps(run) == [1, 2, 3, 4, 5, 6]
