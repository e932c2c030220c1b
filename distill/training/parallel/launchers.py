"""Refuse what a launcher was asked for if the run would be another one.

Nothing here communicates: the checks read this process's environment before accelerate does.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from distill.config.command_line import process_count, words_after_python
from distill.config.errors import UserError
from distill.training.settings import RunSettings

PAGE = "docs/clusters.md"
WITH_SEVERAL = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which the processes of a run find each other."""
MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which implementations of MPI give the number of processes."""
ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""Variables by which `accelerate launch` chooses an engine that distributes networks, and their names."""


def check_launch(config: RunSettings) -> None:
    """Refuse a launcher's request that is ignored here or contradicts the configuration."""
    _check_count()
    _check_variables()
    _check_engine()
    _check_precision(config.precision)
    _check_compilation(config.compile)
    _check_accumulation()
    _check_device(config.device)
    _check_gpus(config.device)


def warn_of_unused_tasks() -> None:
    """Say on stderr that SLURM gave tasks which this run leaves unused."""
    tasks = _number("SLURM_NTASKS")
    if tasks > 1 and process_count() == 1 and "SLURM_STEP_NUM_TASKS" not in os.environ:
        print(
            f"note: SLURM gave this job {tasks} tasks, and this run is one process; {PAGE} starts several",
            file=sys.stderr,
        )


def is_launched() -> bool:
    """Return True if a launcher started this process, as one of several or alone."""
    return "WORLD_SIZE" in os.environ


def processes_here() -> int:
    """Return the number of the run's processes on this machine."""
    return _number("LOCAL_WORLD_SIZE") if process_count() > 1 else 1


def _check_count() -> None:
    """Refuse a run of fewer processes than a launcher was asked for, or several runs in one folder."""
    count = process_count()
    asked = _asked_of_accelerate()
    if asked != "1":
        raise UserError(
            f"accelerate launch: was asked for {asked} processes and started one, as it does without "
            f"--multi_gpu; expected torchrun --nproc-per-node {asked} {shlex.join(words_after_python())}"
        )
    tasks = _number("SLURM_STEP_NUM_TASKS")
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    known = _number("GROUP_WORLD_SIZE") if is_torchrun else count
    if tasks > known:
        what = f"torchrun {tasks} times" if is_torchrun else f"{tasks} tasks"
        raise UserError(
            f"srun: started {what}, which do not know of each other; expected a command of {PAGE}, "
            "or --ntasks 1 for each of several runs"
        )
    started = max(map(_number, MPI))
    if started > count:
        raise UserError(
            f"mpirun: started {started} processes, which do not know of each other; "
            f"expected torchrun, as in {PAGE}"
        )


def _asked_of_accelerate() -> str:
    """Return the number of processes that `accelerate launch` was asked for if it started only one.

    It tells the one process the address of the others, which it does not start.
    """
    is_alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ
    if not (is_alone and "MASTER_PORT" in os.environ):
        return "1"
    flags = _flags_of_parent()
    if "num_processes" not in flags:  # a file of accelerate says it
        return "N"
    return max(flags["num_processes"], flags.get("num_machines", "1"), key=int)


def _flags_of_parent() -> dict[str, str]:
    """Return the flags of the launcher's command line, without their dashes; none where it cannot be read."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, UnicodeDecodeError):
        return {}
    if sys.argv[0] in words:
        words = words[: words.index(sys.argv[0])]  # its own arguments follow
    flags = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, is_joined, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value if is_joined else following
    return flags


def _check_variables() -> None:
    if process_count() == 1:
        return
    absent = [name for name in WITH_SEVERAL if name not in os.environ]
    if absent:
        raise UserError(
            f"WORLD_SIZE: is {process_count()}, but {absent[0]} is not set; "
            f"expected {', '.join(WITH_SEVERAL)}, as torchrun sets them"
        )


def _check_engine() -> None:
    for variable, engine in ENGINES.items():
        if _is_true(variable):
            raise UserError(
                f"accelerate launch: says {engine}, but sharding is a setting of this program; "
                "expected --multi_gpu, or distributed_type MULTI_GPU, and --sharding.strategy full"
            )


def _check_precision(precision: str) -> None:
    given = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no"
    if given == "fp8":
        raise UserError(
            "precision: accelerate launch says --mixed_precision fp8, which is not offered; "
            f"expected {precision}, or no"
        )
    if given not in ("no", precision):
        raise UserError(
            f"precision: is {precision}, but accelerate launch says --mixed_precision {given}; "
            "expected the same, or no"
        )


def _check_compilation(chosen: str) -> None:
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "").lower() or "no"
    if backend != "no" and not (backend == "inductor" and chosen != "none"):
        raise UserError(
            f"compile: is {chosen}, but accelerate launch says --dynamo_backend {backend}; "
            "expected no, and --compile blocks or step"
        )


def _check_accumulation() -> None:
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or "1"
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # accelerate hands the flag on to DeepSpeed alone
        steps = _flags_of_parent().get("gradient_accumulation_steps", steps)
    if steps not in ("1", "auto"):
        raise UserError(
            f"micro_batch_size: accelerate launch says --gradient_accumulation_steps {steps}; expected 1, "
            "since batch_size and micro_batch_size decide over how many passes a gradient is accumulated"
        )


def _check_device(device: str) -> None:
    if device == "cuda" and _is_true("ACCELERATE_USE_CPU"):
        raise UserError("device: is cuda, but accelerate launch says --cpu; expected the same")
    given = os.environ.get("ACCELERATE_TORCH_DEVICE", "").partition(":")[0]
    if given and device not in ("auto", given):
        raise UserError(f"device: is {device}, but ACCELERATE_TORCH_DEVICE is {given}; expected the same")


def _check_gpus(device: str) -> None:
    """Refuse more processes than GPUs. Tasks of SLURM may see one GPU each, and share none."""
    import torch

    if device == "cpu" or _is_true("ACCELERATE_USE_CPU") or not torch.cuda.is_available():
        return
    count, gpus = processes_here(), torch.cuda.device_count()
    if count > gpus and (gpus > 1 or "TORCHELASTIC_RUN_ID" in os.environ):
        raise UserError(
            f"device: {count} processes on a machine with {gpus} GPU{'s' * (gpus > 1)}; "
            f"expected --nproc-per-node {gpus}, or --device cpu"
        )


def _number(variable: str) -> int:
    """Return the value of a variable, or 0 if it is not set."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
