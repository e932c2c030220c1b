"""Between logs, a step reads no value of the device: on a GPU each read is a stall."""

import math
from pathlib import Path

import pytest

from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Averages, Clock
from distill.training.parallel.finite import HostCopy
from distill.training.pretraining.teacher import TeacherTraining
from distill.training.task import Task
from tests.helpers.device_reads import no_device_reads
from tests.helpers.methods import DATA, METHODS
from tests.helpers.runs import read_run, write_run


def check_two_steps(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a step, and two more that must not read a value."""
    averages = Averages()
    task.start(0)
    averages.add(task.update(0, detailed=False))  # constants are computed and moved to the device once
    task.finite.end_step(0)
    # Copies are read a step late, when they have arrived.
    monkeypatch.setattr(HostCopy, "read", lambda copy: [math.inf] * copy.copy.numel())  # all are finite
    with no_device_reads(monkeypatch):
        for step in (1, 2):
            averages.add(task.update(step, detailed=False))
            task.finite.end_step(step)


@pytest.mark.parametrize("method", METHODS)
def test_a_distillation_reads_nothing_between_logs(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_run(write_run(tmp_path, batch_size=4, **METHODS[method]))
    check_two_steps(Distillation(config, build_processes(config), Clock()), monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16-true"])
def test_the_training_of_a_teacher_reads_nothing_between_logs(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"width": 8, "multipliers": [1, 2], "blocks": 1}
    file = write_run(
        tmp_path, task="train_teacher", data=DATA, network=network, batch_size=4, precision=precision
    )
    config = read_config(file)
    check_two_steps(TeacherTraining(config, build_processes(config), Clock()), monkeypatch)


def test_a_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    values = torch.ones(3)
    with no_device_reads(monkeypatch):
        for read in (lambda: float(values.sum()), lambda: values[values > 0], lambda: values.tolist()):
            with pytest.raises(AssertionError, match="reads a value of the device"):
                read()
