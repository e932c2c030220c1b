"""Beside a fake score that learns nothing, the student makes samples only for its own update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import assert_same_tensors, read_run, write_run

DMD = {"name": "distribution_matching", "divergence": "reverse_kl"}
LEARNING = {"generator": {"optimizer": {"lr": 1e-2}}}


def train_steps(file: Path, *overrides: str, always: bool = False) -> tuple[int, dict[str, Any]]:
    """Make three steps; return how often the student made samples, and its weights.

    With `always` it makes them for the fake score's updates too.
    """
    config = read_run(file, *overrides)
    task = Distillation(config, build_processes(config), Clock())
    task.draws_masks |= always
    calls = []
    generate = task.generate

    def counted(*inputs: Any) -> Any:
        calls.append(inputs)
        return generate(*inputs)

    task.generate = counted
    task.start(0)
    for step in range(3):
        task.update(step, detailed=False)
        task.finite.end_step(step)
    return len(calls), {name: weight.clone() for name, weight in task.generator.state_dict().items()}


@pytest.mark.parametrize(
    ("overrides", "made", "before"),
    [
        (["--micro_batch_size=1"], 3 * 2, 3 * 4),
        (["--fake.updates=3"], 3, 9),
        (["--fake.warmup_steps=2"], 1, 3),
        ([], 3, 3),
    ],
)
def test_no_samples_are_made_for_nothing(
    overrides: list[str], made: int, before: int, tmp_path: Path
) -> None:
    file = write_run(tmp_path, fake={"network": {"name": "sample"}}, objective=DMD, **LEARNING)
    found, weights = train_steps(file, *overrides)
    known, expected = train_steps(file, *overrides, always=True)
    assert (found, known) == (made, before)
    assert_same_tensors(weights, expected)


def test_a_student_with_dropout_draws_the_masks_that_it_drew(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher", dropout=0.3)
    file = write_run(tmp_path, fake={"network": {"name": "sample"}}, objective=DMD, micro_batch_size=1)
    assert train_steps(file)[0] == 3 * 4
