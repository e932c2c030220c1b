"""A run that lacks memory ends in one line that says what was held and what to lower."""

from pathlib import Path

import pytest
import torch

from distill.config.errors import TrainingError
from distill.training.distillation.task import Distillation
from distill.training.launch import build_accelerator
from distill.training.logging import Clock
from distill.training.memory_shortage import held_parts
from tests.helpers.runs import read_run, train_run


def test_a_lack_of_memory_is_one_line_that_says_what_was_held_and_what_to_lower(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(self: object, step: int, detailed: bool) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"
        )

    monkeypatch.setattr(Distillation, "update", update)
    with pytest.raises(TrainingError) as error:
        train_run(run_file, f"--run_dir={tmp_path / 'crowded'}", "--discriminator.r1", "{weight: 0.1}")
    message = str(error.value)
    assert message.startswith("out of memory on cpu: weights 0.0")
    assert "gradients 0.00 GiB, optimisers 0.00 GiB, average 0.00 GiB were held" in message
    assert (
        "lower micro_batch_size to 2 (now 4), or set activation_checkpointing: true, or set precision: bf16"
        in message
    )
    assert "set discriminator.r1.at: features; the last checkpoint is untouched" in message
    assert "\n" not in message


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_what_a_run_holds_is_counted_once(run_file: Path, tmp_path: Path) -> None:
    """Adam holds two moments of every trainable parameter, and one average of the generator is kept."""
    config = read_run(run_file, f"--run_dir={tmp_path / 'counted'}")
    task = Distillation(config, build_accelerator(config), Clock())
    task.start(0)
    task.update(0, False)
    held = held_parts(task)
    trained = [task.networks.generator, task.networks.fake, task.networks.discriminator]
    assert held["optimisers"] >= 2 * 4 * sum(map(parameter_count, trained))
    assert held["average"] == 4 * parameter_count(task.ema.average)
    assert held["weights"] >= 4 * sum(map(parameter_count, [task.teacher, *trained]))
