"""The script for SLURM, run with stand-ins for SLURM's commands: it starts, saves and queues a run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.runs import ENVIRONMENT, checkpoint_names, logged_steps, write_run

COMMANDS = {
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> "$RECORD/scontrol"',
    "scancel": 'echo "$@" >> "$RECORD/scancel"; kill -USR1 $(cat "$RECORD/tasks")',
    "srun": """
        [ "$1" = --kill-on-bad-exit=1 ] && shift
        for task in 0 1; do
            SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_TASKS=2 "$@" &
            echo $! >> "$RECORD/tasks"
        done
        code=0
        for task in $(cat "$RECORD/tasks"); do wait "$task" || code=$?; done
        exit "$code"
    """,
}


def submit(folder: Path, file: Path) -> subprocess.Popen[str]:
    """Start the script as SLURM would on one machine for two tasks."""
    for name, script in COMMANDS.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\n{script}\n")
        command.chmod(0o755)
    job = {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RECORD": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    return subprocess.Popen(
        ["bash", "docs/slurm.sh", str(file)],
        env={**ENVIRONMENT, **job},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_job_whose_time_ends_saves_and_is_queued_again(tmp_path: Path) -> None:
    file = write_run(tmp_path, steps=100_000, checkpoint_every=100_000, sample_every=100_000)
    job = submit(tmp_path, file)
    while not (tmp_path / "run" / "stats.jsonl").is_file() and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 128 + signal.SIGUSR1, errors
    lines = output.splitlines()
    assert lines[0] == "2 processes on 1 node, cpu, fp32, sharding none"
    assert lines[1].startswith("SIGUSR1: saved at step ")
    assert (tmp_path / "scancel").read_text() == "--signal=USR1 7\n"
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert len(checkpoint_names(tmp_path / "run")) == 1


@pytest.mark.slow
def test_a_job_whose_run_is_finished_is_not_queued_again(tmp_path: Path) -> None:
    job = submit(tmp_path, write_run(tmp_path, steps=2))
    errors = job.communicate(timeout=240)[1]
    assert job.returncode == 0, errors
    assert logged_steps(tmp_path / "run") == [1, 2]
    assert not (tmp_path / "scontrol").exists()
