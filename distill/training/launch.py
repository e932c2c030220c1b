"""Run a checked configuration to its end."""

from __future__ import annotations

import importlib.util
import json
import os

from accelerate import Accelerator

from distill.config.errors import TrainingError, UserError, is_out_of_memory
from distill.storage.unfinished import remove_unfinished
from distill.training.device.kernels import (
    chosen_kernels,
    describe_kernels,
    device_name,
    nondeterministic_operation,
)
from distill.training.device.memory_shortage import describe_shortage
from distill.training.device.precision import check_launcher
from distill.training.distillation.task import Distillation
from distill.training.dry_run.micro_batch import free_memory, largest_micro_batch
from distill.training.dry_run.step import images_at_once
from distill.training.logging import Clock, cut_lines
from distill.training.parallel.processes import Processes
from distill.training.run_folder import ComputedBy, open_run_folder, record_run, recorded_micro_batch
from distill.training.settings import RunConfig, TrainTeacherRun
from distill.training.teacher_training import TeacherTraining
from distill.training.trainer import STATS, Monitor, Task, Trainer


def launch(config: RunConfig, monitor: Monitor | None = None) -> int:
    """Run a configuration, from its newest checkpoint if it has one, and return the exit code.

    Bad input is refused before anything is written.
    """
    accelerator = build_accelerator(config)
    processes = processes_of(accelerator, config)
    with chosen_kernels(config, processes.device):
        return _run(config, processes, monitor, accelerator)


def _run(config: RunConfig, processes: Processes, monitor: Monitor | None, accelerator: Accelerator) -> int:
    size, said = choose_micro_batch(config, processes)
    resolved = config.model_copy(update={"micro_batch_size": size})
    clock = Clock(processes.device)
    task: Task
    if isinstance(resolved, TrainTeacherRun):
        task = TeacherTraining(resolved, processes, clock)
    else:
        task = Distillation(resolved, processes, clock)
    trainer = Trainer(resolved, task, processes, clock, monitor, accelerator)
    checkpoint = open_run_folder(config)
    processes.wait()  # every process has read the folder before one writes to it
    if checkpoint is not None:
        trainer.restore(checkpoint)
    if processes.is_main:
        remove_unfinished(config.run_dir)
        cut_lines(config.run_dir / STATS, trainer.step)
        record_run(config, computed_by(resolved, processes))
        if processes.device.type == "cuda":
            print(describe_kernels(config, processes.device), *filter(None, [said]), sep="\n", flush=True)
    if config.trackers:
        settings = {"config": json.dumps(config.model_dump(mode="json"))}
        accelerator.init_trackers(
            "distill", config=settings, init_kwargs={"tensorboard": {"purge_step": trainer.step + 1}}
        )
    try:
        return trainer.run()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            at_once = images_at_once(resolved, processes.count)
            raise TrainingError(describe_shortage(config, task, processes.device, at_once)) from error
        operation = nondeterministic_operation(error)
        if operation is None:
            raise
        raise TrainingError(
            f"deterministic: {operation} adds in a changing order on {processes.device}; expected false"
        ) from error


def choose_micro_batch(config: RunConfig, processes: Processes) -> tuple[int | None, str | None]:
    """Return the micro-batch as a number, or None for the whole batch, and what to say of one from `auto`.

    A run that continues on the same devices keeps its micro-batch.
    """
    import torch

    if config.micro_batch_size != "auto":
        return config.micro_batch_size, None
    device, count = processes.device, processes.count
    recorded = recorded_micro_batch(config.run_dir, device_name(device), count)
    memory = free_memory(device)
    # Processes of one run must agree: the fullest device decides, and a record counts if all have it.
    mine = torch.tensor([[recorded or 0, memory or 0]], device=device)
    kept, memory = processes.gather(mine).amin(0).tolist()
    if kept:
        return kept, f"micro_batch_size: auto keeps the {kept} images with which the run began"
    if not memory:
        return None, None
    found = largest_micro_batch(config, count, memory)
    return found.size, str(found)


def computed_by(config: RunConfig, processes: Processes) -> ComputedBy:
    """Return what meta.json says of the devices and what they compute."""
    return {
        "device": device_name(processes.device),
        "processes": processes.count,
        "precision": config.precision,
        "tf32": config.tf32 and processes.device.type == "cuda",
        "compile": config.compile,
        "deterministic": config.deterministic or processes.device.type == "cpu",
        "micro_batch_size": images_at_once(config, processes.count),
    }


def build_accelerator(config: RunConfig) -> Accelerator:
    """Set up accelerate's process group, device and trackers."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is not available; expected auto or cpu")
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"trackers: {tracker} is not installed; expected it from pip install '.[tracking]'"
            )
    check_launcher(config.precision)
    return Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="no",  # `device.precision.autocast` does it
        log_with=list(config.trackers) or None,
        project_dir=str(config.run_dir),
    )


def processes_of(accelerator: Accelerator, config: RunConfig) -> Processes:
    """Return the processes that a launcher started, with the mesh over which networks are sharded."""
    count, device = accelerator.num_processes, accelerator.device
    nodes = max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", count)))
    sharding = config.sharding
    if not sharding.is_on:
        return Processes(device, accelerator.process_index, count, nodes)
    if count == 1:
        raise UserError(
            f"sharding.strategy: is {sharding.strategy}; expected none for one process, "
            "or several, started by torchrun"
        )
    from torch.distributed.device_mesh import init_device_mesh

    try:
        copies, shards = sharding.sizes(count, nodes)
    except ValueError as error:
        raise UserError(f"sharding.{error}") from error
    if copies == 1:
        mesh = init_device_mesh(device.type, (shards,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(device.type, (copies, shards), mesh_dim_names=("replicate", "shard"))
    return Processes(device, accelerator.process_index, count, nodes, mesh)


def build_processes(config: RunConfig) -> Processes:
    """Set up the processes of a run, without trackers."""
    return processes_of(build_accelerator(config), config)
