"""Whole runs on a GPU: they train, repeat themselves, resume to the bit, and end in a line without memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config.errors import TrainingError
from distill.objectives.density_ratio import RunningMean
from distill.training.distillation.task import Distillation
from tests.helpers.one_step import CRITIC, DATA
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_names,
    checkpoint_tensors,
    logged_steps,
    read_lines,
    train_run,
    write_run,
)

pytestmark = pytest.mark.gpu
METHOD: dict[str, Any] = {
    "objective": {"name": "expanded_divergence", "divergence": "forward_kl"},
    "discriminator": {**CRITIC, "reads": "fake", "own_noise": True, "r1": {"weight": 1.0}},
    "ratio": {},
    "terms": [{"name": "gan", "weight": 0.1, "own_noise": True}],
}


def write_device_run(folder: Path, device: torch.device, **settings: Any) -> Path:
    return write_run(
        folder, data=DATA, steps=6, batch_size=8, device=device.type, checkpoint_every=2, **METHOD, **settings
    )


def test_a_run_trains_on_the_device(device: torch.device, tmp_path: Path) -> None:
    lines = read_lines(train_run(write_device_run(tmp_path, device)))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss/objective"] is not None for line in lines)


def test_a_running_mean_is_the_same_to_the_bit_each_time(device: torch.device) -> None:
    values = torch.randn(100_000, device=device).exp()
    bins = torch.randint(10, (100_000,), device=device)
    totals = []
    for _ in range(5):
        mean = RunningMean(10, decay=0.9).to(device)
        mean.add(values, bins)
        mean.commit(lambda total: total)
        totals.append(mean.total)
    assert all(torch.equal(totals[0], total) for total in totals)


@pytest.mark.parametrize("precision", ["fp32", "bf16-true"])
def test_a_deterministic_run_repeats_itself_and_resumes_to_the_bit(
    device: torch.device, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_device_run(tmp_path, device, deterministic=True, precision=precision)
    whole = train_run(file, f"--run_dir={tmp_path / 'whole'}")
    again = train_run(file, f"--run_dir={tmp_path / 'again'}")
    assert_same_tensors(checkpoint_tensors(again), checkpoint_tensors(whole))

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        break_off(patch, at=5)
        train_run(file, f"--run_dir={cut}")
    assert checkpoint_names(cut)[-1] == "step-00000004"
    train_run(file, f"--run_dir={cut}")
    assert logged_steps(cut) == [1, 2, 3, 4, 5, 6]
    assert_same_tensors(checkpoint_tensors(cut), checkpoint_tensors(whole))


def break_off(patch: pytest.MonkeyPatch, at: int) -> None:
    """End a run without a word at this step, as a kill does."""
    update = Distillation.update

    def broken_off(task: Distillation, step: int, detailed: bool) -> Any:
        if step == at:
            raise KeyboardInterrupt
        return update(task, step, detailed)

    patch.setattr(Distillation, "update", broken_off)


def test_a_lack_of_memory_ends_in_one_line(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_device_run(tmp_path, device)
    with monkeypatch.context() as patch:
        leave_no_memory(patch, device)
        with pytest.raises(TrainingError) as error:
            train_run(file)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"out of memory on {device.type}")
    assert "weights 0.00 GiB" in line
    assert "lower micro_batch_size to 4 (now 8)" in line


def leave_no_memory(patch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Let the first step find no memory: on a GPU by a limit, on a CPU by the error of a GPU."""
    update = Distillation.update

    def without_memory(task: Distillation, step: int, detailed: bool) -> Any:
        if device.type != "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-6)
        try:
            torch.empty(2**30, dtype=torch.uint8, device=device)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return update(task, step, detailed)

    patch.setattr(Distillation, "update", without_memory)
