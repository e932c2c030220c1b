"""`micro_batch_size: auto` takes the largest micro-batch that is predicted to fit a GPU's free memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from distill.config.errors import UserError
from distill.training import launch as launching
from distill.training.config import read_config
from distill.training.dry_run import distillation, micro_batch
from distill.training.dry_run.cost import measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.micro_batch import GIB, MicroBatch, budget, largest_micro_batch
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.step import META, meta_teacher_of
from tests.helpers.runs import assert_same_tensors, checkpoint_tensors, read_run, train_run, write_run
from train import main

AUTO = {"micro_batch_size": "auto", "batch_size": 12}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a run whose memory its micro-batch decides: no preview takes more."""
    monkeypatch.setattr(distillation, "preview", lambda generator, batch: None)
    return write_run(tmp_path, **AUTO)


def peak(file: Path, size: int, *overrides: str, processes: int = 1) -> int:
    """Return the predicted peak of one process of a run with this micro-batch."""
    config = read_run(file, f"--micro_batch_size={size}", *overrides)
    plan = Plan.of(config, processes)
    own = plan.of_one_process(config)
    return measure_own(simulate_distillation(own, meta_teacher_of(own), META, plan), own).peak


def memory_for(peak: int) -> int:
    """Return the smallest memory whose budget holds this peak."""
    return next(memory for memory in range(int(peak / 0.9) - 2, 2 * peak) if budget(memory) >= peak)


@pytest.mark.parametrize(
    "size", [12, 4, 1, *(pytest.param(size, marks=pytest.mark.slow) for size in (6, 3, 2))]
)
def test_it_is_the_largest_divisor_of_the_batch_that_fits(file: Path, size: int) -> None:
    expected = peak(file, size)
    memory = memory_for(expected)
    found = largest_micro_batch(read_run(file), 1, memory)
    assert (found.size, found.whole, found.peak) == (size, 12, expected)
    if size > 1:
        assert largest_micro_batch(read_run(file), 1, memory - 2).size < size


@pytest.mark.parametrize("strategy", ["none", "full"])
def test_a_process_of_several_has_its_part_of_the_batch_and_of_sharded_networks(
    file: Path, strategy: str
) -> None:
    sharding = f"--sharding.strategy={strategy}"
    memory = memory_for(peak(file, 4, sharding, processes=3))
    found = largest_micro_batch(read_run(file, sharding), 3, memory)
    assert (found.size, found.whole) == (4, 4)
    assert largest_micro_batch(read_run(file, sharding), 3, memory - 2).size == 2


def test_a_copy_of_sharded_networks_is_on_one_machine(file: Path) -> None:
    """Parts are larger with two machines, which hold a copy each."""
    config = read_run(file, "--sharding.strategy=hybrid")
    peaks = [largest_micro_batch(config, 4, 80 * GIB, nodes).peak for nodes in (1, 2)]
    assert peaks[0] < peaks[1]


def test_one_image_is_tried_though_it_does_not_fit(file: Path) -> None:
    found = largest_micro_batch(read_run(file), 1, 1000)
    assert found.size == 1
    assert "auto takes 1 of a process's 12 images at once, though it may take" in str(found)


def test_a_line_says_what_it_takes_of_what_is_free() -> None:
    assert str(MicroBatch(size=16, whole=64, peak=60 * GIB, memory=80 * GIB)) == (
        "micro_batch_size: auto takes 16 of a process's 64 images at once, for 60.0 GiB of 80.0 free"
    )


def test_a_teacher_that_is_trained_has_one_too(tmp_path: Path) -> None:
    file = write_run(
        tmp_path, task="train_teacher", data={"name": "digits"}, network={"width": 8, "blocks": 1}, **AUTO
    )
    assert largest_micro_batch(read_config(file), 1, 80 * GIB).size == 12


def pretend_memory(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    """Let the device of runs have this much free memory."""
    monkeypatch.setattr(launching, "free_memory", lambda device: memory)


def recorded(run: Path) -> int:
    size = json.loads((run / "meta.json").read_text())["micro_batch_size"]
    assert isinstance(size, int)
    return size


def test_a_run_computes_by_the_micro_batch_that_fits_and_keeps_auto_in_its_configuration(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = checkpoint_tensors(
        train_run(file, "--micro_batch_size=4", f"--run_dir={file.parent / 'four'}")
    )
    pretend_memory(monkeypatch, memory_for(peak(file, 4)))
    run = train_run(file)
    assert recorded(run) == 4
    assert yaml.safe_load((run / "config.yaml").read_text())["micro_batch_size"] == "auto"
    assert_same_tensors(checkpoint_tensors(run), expected)


def test_a_run_that_continues_keeps_its_micro_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is another one by then, but sums over another micro-batch would differ by rounding."""
    pretend_memory(monkeypatch, memory_for(peak(file, 4)))
    run = train_run(file)
    pretend_memory(monkeypatch, 80 * GIB)
    assert recorded(train_run(file, "--steps=3")) == 4
    meta = json.loads((run / "meta.json").read_text())
    (run / "meta.json").write_text(json.dumps({**meta, "processes": 2}))
    assert recorded(train_run(file, "--steps=4")) == 12


def test_a_cpu_takes_the_whole_batch(file: Path) -> None:
    assert micro_batch.free_memory(torch.device("cpu")) is None
    assert recorded(train_run(file)) == 12


def test_the_dry_run_chooses_for_the_memory_that_it_is_given(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gib = memory_for(peak(file, 4)) / GIB
    main([str(file), "--dry-run", "--memory", str(gib)])
    said = capsys.readouterr().out
    assert "micro_batch_size: auto takes 4 of a process's 12 images at once" in said
    assert "memory of one process: 4 images at once" in said
    main([str(file), "--dry-run"])
    assert (
        "auto takes 12 of a process's 12 images at once, for 0.0 GiB of 80.0 free" in capsys.readouterr().out
    )


def test_the_dry_run_chooses_for_one_of_several_processes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(file), "--dry-run", "--processes", "4"])
    assert "micro_batch_size: auto takes 3 of a process's 3 images at once" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--memory"], ["--memory", "much"], ["--memory", "-1"]])
def test_a_memory_that_is_no_number_is_refused(file: Path, given: list[str]) -> None:
    with pytest.raises(UserError, match="--memory: expected the free memory of a GPU in GiB after it"):
        main([str(file), "--dry-run", *given])
