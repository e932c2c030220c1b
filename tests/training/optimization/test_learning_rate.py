"""The learning rate is a function of the step: by hand, and as diffusers has it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from pydantic import ValidationError

from distill.training.dry_run.summary import describe_run
from distill.training.optimization.settings import OptimizerSettings
from tests.helpers.runs import read_lines, read_run, train_run, write_run


def rates(steps: int, **settings: Any) -> list[float]:
    """Return the learning rate of each step of a run."""
    optimizer = OptimizerSettings(**settings)
    return [optimizer.learning_rate(step, steps) for step in range(steps)]


def test_a_rate_is_constant_after_its_warm_up() -> None:
    assert rates(6, lr=8.0, warmup_steps=3) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_a_linear_decay_ends_at_zero() -> None:
    assert rates(8, lr=4.0, decay_from=0.5) == [4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 2.0, 1.0]


def test_a_cosine_falls_by_half_a_period() -> None:
    third, two_thirds = 0.75, 0.25  # (1 + cos(pi/3)) / 2 and (1 + cos(2 pi/3)) / 2
    assert rates(6, lr=2.0, decay="cosine", decay_from=0.5) == pytest.approx(
        [2.0, 2.0, 2.0, 2.0, 2 * third, 2 * two_thirds], rel=1e-15
    )


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_a_cosine_over_the_whole_run_is_that_of_diffusers_after_its_warm_up(warmup: int) -> None:
    """During the warm-up diffusers begins at 0 and takes a step less."""
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    published = []
    for _ in range(steps):
        published.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = rates(steps, lr=0.3, decay="cosine", decay_from=0, warmup_steps=warmup)
    assert found[warmup:] == pytest.approx(published[warmup:], rel=1e-12)
    assert found[:warmup] == pytest.approx([0.3 * (s + 1) / (warmup + 1) for s in range(warmup)])


def test_a_cosine_needs_a_course() -> None:
    with pytest.raises(ValidationError, match="decay: cosine is given, and decay_from is 1"):
        OptimizerSettings(decay="cosine")


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        ({}, "0.0003, constant"),
        ({"warmup_steps": 5}, "0.0003, warm-up over 5 steps, constant"),
        ({"decay_from": 0.25}, "0.0003, linear decay to 0 from step 25 to 100"),
        (
            {"decay_from": 0, "decay": "cosine", "warmup_steps": 10},
            "0.0003, warm-up over 10 steps, cosine decay to 0 from step 10 to 100",
        ),
    ],
)
def test_a_rate_is_described(settings: dict[str, Any], described: str) -> None:
    assert OptimizerSettings(**settings).describe_rate(100) == described


def test_a_run_takes_and_logs_the_rates_and_a_dry_run_tells_them(tmp_path: Path) -> None:
    cosine = {"lr": 1e-3, "decay": "cosine", "decay_from": 0}
    file = write_run(tmp_path, steps=3, generator={"optimizer": cosine})
    lines = read_lines(train_run(file))
    expected = [1e-3 * (0.5 + 0.5 * math.cos(math.pi * step / 3)) for step in range(3)]
    assert [line["lr/generator"] for line in lines] == expected
    said = describe_run(read_run(file), memory=2**30)
    assert "learning rate of generator.optimizer: 0.001, cosine decay to 0 from step 0 to 3\n" in said
    assert said.endswith("learning rate of fake.optimizer: 0.0003, constant")
