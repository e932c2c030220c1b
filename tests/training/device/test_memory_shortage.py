"""A run that lacks memory ends in one line that says what was held and what to lower."""

from pathlib import Path

import pytest
import torch

from distill.config.errors import TrainingError
from distill.training.device.memory_shortage import held_parts, remedies
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from tests.helpers.runs import read_run, train_run, write_run

ALWAYS = "generator.optimizer.name: adam8bit, or set generator.optimizer.offload: true"
"""Remedies that remain when nothing else does."""


def shortage(file: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    """Return the line of a run whose first update finds no memory."""

    def update(self: object, step: int, detailed: bool) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"
        )

    monkeypatch.setattr(Distillation, "update", update)
    with pytest.raises(TrainingError) as error:
        train_run(file, f"--run_dir={run_dir}", *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lack_of_memory_is_one_line_that_says_what_was_held_and_what_to_lower(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = ["--discriminator.r1", "{weight: 0.1}"]
    message = shortage(run_file, tmp_path / "crowded", monkeypatch, *penalty)
    assert message.startswith("out of memory on cpu: weights 0.0")
    assert "gradients 0.00 GiB, optimisers 0.00 GiB, average 0.00 GiB were held" in message
    assert (
        "lower micro_batch_size to 2 (now 4), or set activation_checkpointing: true, or set precision: bf16, "
        "or set discriminator.r1.recompute: true, or set discriminator.r1.approximate: true" in message
    )
    assert message.endswith(f"or set {ALWAYS}; the last checkpoint is untouched")


def test_a_remedy_that_is_taken_is_not_named(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["--micro_batch_size=1", "--activation_checkpointing=true", "--precision=bf16"]
    message = shortage(run_file, tmp_path / "frugal", monkeypatch, *settings)
    assert message.endswith(f"were held; set {ALWAYS}; the last checkpoint is untouched")


def test_a_micro_batch_that_auto_took_is_lowered_by_its_number(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = shortage(run_file, tmp_path / "auto", monkeypatch, "--micro_batch_size=auto")
    assert "lower micro_batch_size to 2 (now 4, which auto took)" in message


def test_a_process_of_several_lowers_its_own_part_of_the_batch(run_file: Path) -> None:
    """A process of two computes two of the batch's four images at once."""
    assert remedies(read_run(run_file), 2)[0] == "lower micro_batch_size to 1 (now 2)"


def test_adapters_of_a_frozen_teacher_take_bfloat16_next(tmp_path: Path) -> None:
    lora = {"network": {"name": "lora"}}
    file = write_run(
        tmp_path,
        teacher={"name": "diffusers", "path": "nowhere"},
        precision="bf16",
        generator=lora,
        fake=lora,
    )
    assert "set precision: bf16-true" in remedies(read_run(file), 1)
    assert "set precision: bf16-true" not in remedies(read_run(file, "--precision=bf16-true"), 1)


@pytest.mark.parametrize("taken", ["generator.optimizer.offload=true", "generator.optimizer.name=adam8bit"])
def test_an_optimiser_that_is_small_already_has_no_remedy(run_file: Path, taken: str) -> None:
    """The other of the two remedies does not go with it."""
    assert len(remedies(read_run(run_file), 1)) == len(remedies(read_run(run_file, f"--{taken}"), 1)) + 2
    assert "optimizer" not in " ".join(remedies(read_run(run_file, f"--{taken}"), 1))


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_what_a_run_holds_is_counted_once(run_file: Path, tmp_path: Path) -> None:
    """Adam holds two moments of every trainable parameter, and one average of the generator is kept."""
    config = read_run(run_file, f"--run_dir={tmp_path / 'counted'}")
    task = Distillation(config, build_processes(config), Clock())
    task.start(0)
    task.update(0, False)
    held = held_parts(task, torch.device("cpu"))
    trained = [task.networks.generator, task.networks.fake, task.networks.discriminator]
    assert held["optimisers"] >= 2 * 4 * sum(map(parameter_count, trained))
    assert held["average"] == 4 * parameter_count(task.ema.average)
    assert held["weights"] >= 4 * sum(map(parameter_count, [task.teacher, *trained]))
