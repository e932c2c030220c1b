"""Run a checked configuration to its end."""

from __future__ import annotations

import importlib.util
import json

from accelerate import Accelerator

from distill.config.errors import TrainingError, UserError, is_out_of_memory
from distill.storage.unfinished import remove_unfinished
from distill.training.distillation.task import Distillation
from distill.training.logging import Clock, cut_lines
from distill.training.memory_shortage import describe_shortage
from distill.training.run_folder import open_run_folder, record_run
from distill.training.settings import RunConfig, TrainTeacherRun
from distill.training.teacher_training import TeacherTraining
from distill.training.trainer import STATS, Monitor, Task, Trainer


def launch(config: RunConfig, monitor: Monitor | None = None) -> int:
    """Run a configuration, from its newest checkpoint if it has one, and return the exit code.

    Bad input is refused before anything is written.
    """
    accelerator = build_accelerator(config)
    clock = Clock()
    task: Task
    if isinstance(config, TrainTeacherRun):
        task = TeacherTraining(config, accelerator, clock)
    else:
        task = Distillation(config, accelerator, clock)
    trainer = Trainer(config, task, accelerator, clock, monitor)
    checkpoint = open_run_folder(config)
    accelerator.wait_for_everyone()  # every process has read the folder before one writes to it
    if checkpoint is not None:
        trainer.restore(checkpoint)
    if accelerator.is_main_process:
        remove_unfinished(config.run_dir)
        cut_lines(config.run_dir / STATS, trainer.step)
        record_run(config)
    if config.trackers:
        settings = {"config": json.dumps(config.model_dump(mode="json"))}
        accelerator.init_trackers(
            "distill", config=settings, init_kwargs={"tensorboard": {"purge_step": trainer.step + 1}}
        )
    try:
        return trainer.run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(describe_shortage(config, task, accelerator.device)) from error


def build_accelerator(config: RunConfig) -> Accelerator:
    """Set up accelerate's process group, device, precision and trackers."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is not available; expected auto or cpu")
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"trackers: {tracker} is not installed; expected it from pip install '.[tracking]'"
            )
    return Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        log_with=list(config.trackers) or None,
        project_dir=str(config.run_dir),
    )
