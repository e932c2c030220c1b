"""Run a checked configuration to its end."""

from __future__ import annotations

import importlib.util
import json

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
from distill.training.run_folder import ComputedBy, open_run_folder, record_run, recorded_micro_batch
from distill.training.settings import RunConfig, TrainTeacherRun
from distill.training.teacher_training import TeacherTraining
from distill.training.trainer import STATS, Monitor, Task, Trainer


def launch(config: RunConfig, monitor: Monitor | None = None) -> int:
    """Run a configuration, from its newest checkpoint if it has one, and return the exit code.

    Bad input is refused before anything is written.
    """
    accelerator = build_accelerator(config)
    with chosen_kernels(config, accelerator.device):
        return _run(config, accelerator, monitor)


def _run(config: RunConfig, accelerator: Accelerator, monitor: Monitor | None) -> int:
    size, said = choose_micro_batch(config, accelerator)
    resolved = config.model_copy(update={"micro_batch_size": size})
    clock = Clock(accelerator.device)
    task: Task
    if isinstance(resolved, TrainTeacherRun):
        task = TeacherTraining(resolved, accelerator, clock)
    else:
        task = Distillation(resolved, accelerator, clock)
    trainer = Trainer(resolved, task, accelerator, clock, monitor)
    checkpoint = open_run_folder(config)
    accelerator.wait_for_everyone()  # every process has read the folder before one writes to it
    if checkpoint is not None:
        trainer.restore(checkpoint)
    if accelerator.is_main_process:
        remove_unfinished(config.run_dir)
        cut_lines(config.run_dir / STATS, trainer.step)
        record_run(config, computed_by(resolved, accelerator))
        if accelerator.device.type == "cuda":
            print(describe_kernels(config, accelerator.device), *filter(None, [said]), sep="\n", flush=True)
    if config.trackers:
        settings = {"config": json.dumps(config.model_dump(mode="json"))}
        accelerator.init_trackers(
            "distill", config=settings, init_kwargs={"tensorboard": {"purge_step": trainer.step + 1}}
        )
    try:
        return trainer.run()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            at_once = images_at_once(resolved, accelerator.num_processes)
            raise TrainingError(describe_shortage(config, task, accelerator.device, at_once)) from error
        operation = nondeterministic_operation(error)
        if operation is None:
            raise
        raise TrainingError(
            f"deterministic: {operation} adds in a changing order on {accelerator.device}; expected false"
        ) from error


def choose_micro_batch(config: RunConfig, accelerator: Accelerator) -> tuple[int | None, str | None]:
    """Return the micro-batch as a number, or None for the whole batch, and what to say of one from `auto`.

    A run that continues on the same devices keeps its micro-batch.
    """
    import torch

    if config.micro_batch_size != "auto":
        return config.micro_batch_size, None
    device, processes = accelerator.device, accelerator.num_processes
    recorded = recorded_micro_batch(config.run_dir, device_name(device), processes)
    memory = free_memory(device)
    # Processes of one run must agree: the fullest device decides, and a record counts if all have it.
    mine = torch.tensor([[recorded or 0, memory or 0]], device=device)
    kept, memory = accelerator.gather(mine).amin(0).tolist()
    if kept:
        return kept, f"micro_batch_size: auto keeps the {kept} images with which the run began"
    if not memory:
        return None, None
    found = largest_micro_batch(config, processes, memory)
    return found.size, str(found)


def computed_by(config: RunConfig, accelerator: Accelerator) -> ComputedBy:
    """Return what meta.json says of the devices and what they compute."""
    return {
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": config.precision,
        "tf32": config.tf32 and accelerator.device.type == "cuda",
        "compile": config.compile,
        "deterministic": config.deterministic or accelerator.device.type == "cpu",
        "micro_batch_size": images_at_once(config, accelerator.num_processes),
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
