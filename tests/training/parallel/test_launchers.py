"""A launcher that was asked for another run than the configuration's is refused in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.config.errors import UserError
from distill.training import launch
from distill.training.launch import describe_processes
from distill.training.parallel import launchers
from distill.training.parallel.processes import Processes
from tests.helpers.launched_runs import error_lines, launched
from tests.helpers.runs import ENVIRONMENT, read_run, refusal, train_in_processes, train_run, write_run

TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
ONE_OF_ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}


def accelerate_launch(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {**ONE_OF_ACCELERATE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "accelerate launch: was asked for N processes and started one, as it does without --multi_gpu; "
            "expected torchrun --nproc-per-node N ",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, "accelerate launch: says FSDP, but sharding is a setting of this"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "accelerate launch: says DeepSpeed, but sharding is"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "accelerate launch: says Megatron-LM, but sharding is"),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
            "compile: is none, but accelerate launch says --dynamo_backend inductor; expected no, and "
            "--compile blocks or step",
        ),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            "micro_batch_size: accelerate launch says --gradient_accumulation_steps 4; expected 1, since",
        ),
        (
            {"ACCELERATE_TORCH_DEVICE": "cuda:0"},
            "device: is cpu, but ACCELERATE_TORCH_DEVICE is cuda; expected the same",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "8"},
            "srun: started 8 tasks, which do not know of each other; expected a command of docs/clusters.md",
        ),
        (
            {**TWO, "TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"},
            "srun: started torchrun 2 times, which do not know of each other; expected a command of",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "4"},
            "mpirun: started 4 processes, which do not know of each other; expected torchrun",
        ),
        ({**TWO, "MASTER_ADDR": "localhost"}, "WORLD_SIZE: is 2, but MASTER_PORT is not set; expected RANK,"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_request_that_would_be_ignored_is_refused(
    environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert refusal(write_run(tmp_path)).startswith(message)
    assert not (tmp_path / "run").exists()


def test_cuda_of_the_configuration_is_not_replaced_by_the_cpu_of_accelerate_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    message = "device: is cuda, but accelerate launch says --cpu; expected the same"
    assert refusal(write_run(tmp_path, device="cuda")) == message


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**TWO, "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "device: 2 processes on a machine with 1 GPU; expected --nproc-per-node 1, or --device cpu"
    assert refusal(write_run(tmp_path, device="auto")) == message
    launchers.check_launch(read_run(write_run(tmp_path, device="cpu")))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # SLURM may show each task a GPU of its own
    launchers.check_launch(read_run(write_run(tmp_path, device="auto")))


@pytest.mark.parametrize(
    "environment",
    [
        {**ONE_OF_ACCELERATE, "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "True"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "PMI_SIZE": "1"},
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
        {
            **TWO,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "1",
            "SLURM_STEP_NUM_TASKS": "2",
            "TORCHELASTIC_RUN_ID": "7",
            "GROUP_WORLD_SIZE": "2",
        },
    ],
)
def test_what_is_as_asked_passes(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launchers.check_launch(read_run(write_run(tmp_path)))


def test_inductor_is_the_compiler_of_a_run_that_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    launchers.check_launch(read_run(write_run(tmp_path, compile="blocks")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--cpu", "--num_processes", "2"),
            "accelerate launch: was asked for 2 processes and started one, as it does without --multi_gpu; "
            "expected torchrun --nproc-per-node 2 train.py ",
        ),
        pytest.param(
            ("--cpu", "--num_processes", "1", "--gradient_accumulation_steps", "3"),
            "micro_batch_size: accelerate launch says --gradient_accumulation_steps 3; expected 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_flags_of_accelerate_launch_that_reach_no_process_are_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = accelerate_launch(*words, "train.py", str(write_run(tmp_path)))
    (line,) = error_lines(done.stderr)
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_accelerate_launch_starts_several_processes_with_multi_gpu(tmp_path: Path) -> None:
    words = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    done = accelerate_launch(*words, "train.py", str(write_run(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "2 processes on 1 node, cpu, fp32, sharding none"


def test_tasks_that_a_run_leaves_unused_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    train_run(write_run(tmp_path, steps=1))
    note = "note: SLURM gave this job 8 tasks, and this run is one process; docs/clusters.md starts several\n"
    assert note in capsys.readouterr().err


def test_a_run_says_first_on_what_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(write_run(tmp_path, steps=1, precision="bf16"))
    assert capsys.readouterr().out.splitlines()[0] == "1 process, cpu, bf16"
    meta = json.loads((run / "meta.json").read_text())
    facts = {name: meta[name] for name in ("processes", "nodes", "device", "precision", "sharding", "shards")}
    assert facts == {
        "processes": 1,
        "nodes": 1,
        "device": "cpu",
        "precision": "bf16",
        "sharding": "none",
        "shards": 1,
    }


@pytest.mark.slow
def test_two_sharded_processes_say_so(tmp_path: Path) -> None:
    done = train_in_processes(write_run(tmp_path, steps=1), "--sharding.strategy=full", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "2 processes on 1 node, cpu, fp32, sharding full"
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert [meta[name] for name in ("processes", "nodes", "sharding", "shards")] == [2, 1, "full", 2]


def test_hybrid_sharding_says_how_many_copies_there_are(tmp_path: Path) -> None:
    config = read_run(write_run(tmp_path), "--sharding.strategy=hybrid")
    mesh: Any = SimpleNamespace(size=lambda dimension: 2)
    processes = Processes(torch.device("cpu"), 0, 4, 2, mesh)
    assert describe_processes(config, processes) == (
        "4 processes on 2 nodes, cpu, fp32, sharding hybrid (2 copies over 2 processes each)"
    )


@pytest.mark.parametrize(
    ("here", "message"),
    [
        (
            [8, 8, 4],
            "sharding.group_size: is null, but machines have 4 to 8 processes; "
            "expected a number of processes that hold one copy",
        ),
        (
            [1, 1, 1],
            "sharding.strategy: is hybrid with one process on each machine; expected full, or "
            "sharding.group_size",
        ),
    ],
)
def test_machines_that_hold_no_equal_copies_are_refused(
    here: list[int], message: str, tmp_path: Path
) -> None:
    config = read_run(write_run(tmp_path), "--sharding.strategy=hybrid")
    with pytest.raises(UserError) as error:
        launch.arrange(config, Processes(torch.device("cpu"), 0, len(here)), here, 2)
    assert str(error.value) == message


@pytest.mark.slow
def test_launchers_on_two_machines_start_one_run(tmp_path: Path) -> None:
    """Two launchers of one process each meet on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "test"]
    command = [*launcher, "train.py", str(write_run(tmp_path))]
    with launched(command) as one, launched(command) as other:
        outputs = [launcher.communicate(timeout=240) for launcher in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], outputs
    (output,) = [output for output, _ in outputs if output]
    assert output.splitlines()[0] == "2 processes on 2 nodes, cpu, fp32, sharding none"
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["nodes"] == 2


@pytest.mark.slow
def test_processes_with_other_settings_than_the_first_are_refused(tmp_path: Path) -> None:
    """The second process is given another seed, as a machine with another file would."""
    file = write_run(tmp_path)
    shell = f'exec "{sys.executable}" train.py {file} --seed $RANK'
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "--no_python", "bash", "-c", shell],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    assert error_lines(done.stderr) == [
        "error: seed: is 1 on process 1 of 2 and 0 on the first; "
        "expected the same command and files on all machines"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (("train.py", "--help", "sharding"), None),
        (
            ("sample.py", "--out", "x"),
            [
                "error: 2 processes were started, and this command runs in one; "
                "expected PYTHON sample.py --out x"
            ],
        ),
        (
            ("train.py", "configs/absent.yaml"),
            ["error: configs/absent.yaml cannot be read (No such file or directory)"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_several_processes_answer_once(command: tuple[str, ...], lines: list[str] | None) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--"]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    if lines is None:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("sharding.strategy") == 1
    else:
        found = [line.replace(f"{sys.executable} -u", "PYTHON") for line in error_lines(done.stderr)]
        assert found == lines
        assert "exitcode  : 2" in done.stderr
