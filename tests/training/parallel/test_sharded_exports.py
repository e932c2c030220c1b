"""A sharded run leaves the files that an unsharded one leaves, for people without its processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.networks.folder import load_denoiser, load_generator
from distill.storage.tensors import load_tensors
from tests.helpers.runs import train_in_processes, write_run
from tests.helpers.split_methods import write_methods

pytestmark = pytest.mark.slow
SHORT = ("--steps=2", "--monitor_images=8")
SHARDED = "--sharding.strategy=full"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_methods(tmp_path_factory.mktemp("methods"))


def train_both(file: Path, folder: Path, *overrides: str) -> tuple[Path, Path]:
    """Train a run in one process and sharded over two, and return both folders."""
    runs = []
    for processes, more in ((1, ()), (2, (SHARDED,))):
        run = folder / f"processes-{processes}"
        done = train_in_processes(file, f"--run_dir={run}", *overrides, *more, processes=processes)
        assert done.returncode == 0, done.stderr[-4000:]
        runs.append(run)
    return runs[0], runs[1]


def assert_same_files(found: Path, expected: Path) -> None:
    """Check that two folders hold the same files, and the same weights up to rounding."""
    names = sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file())
    assert sorted(path.relative_to(found) for path in found.rglob("*") if path.is_file()) == names
    for name in names:
        if name.suffix != ".safetensors":
            continue
        here, there = load_tensors(found / name), load_tensors(expected / name)
        assert here.keys() == there.keys(), name
        for key, value in there.items():
            torch.testing.assert_close(here[key], value, rtol=0, atol=1e-6, msg=f"{name}: {key}")


@pytest.mark.parametrize("method", ["diffusers_full", "diffusers_lora", "edm2", "uni_instruct"])
def test_a_sharded_student_is_exported_as_a_whole_one(
    method: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """One of the pipelines has its text encoder and its autoencoder sharded too."""
    whole, sharded = train_both(files[method], tmp_path, *SHORT)
    assert_same_files(sharded / "export", whole / "export")
    assert load_generator(sharded).image_shape == load_generator(whole).image_shape
    checkpoint = sharded / "checkpoints" / "step-00000002"
    assert load_generator(checkpoint).image_shape == load_generator(whole).image_shape


def test_a_sharded_teacher_is_exported_as_a_whole_one(tmp_path: Path) -> None:
    file = write_run(
        tmp_path,
        task="train_teacher",
        data={"name": "digits"},
        network={"width": 8, "blocks": 1},
        optimizer={"eps": 1.0, "lr": 1e-2},
        batch_size=8,
    )
    whole, sharded = train_both(file, tmp_path, *SHORT)
    assert_same_files(sharded / "export", whole / "export")
    assert load_denoiser(sharded).image_shape == (1, 8, 8)


def test_a_sharded_student_starts_from_another_runs(files: dict[str, Path], tmp_path: Path) -> None:
    first, _ = train_both(files["sid"], tmp_path / "first", *SHORT)
    start = f"--generator.init_from={first}"
    whole, sharded = train_both(files["sid"], tmp_path, "--fake.warmup_steps=2", start, *SHORT)
    assert_same_files(sharded / "export", whole / "export")
    expected = load_tensors(first / "export" / "model.safetensors")
    for name, value in load_tensors(sharded / "export" / "model.safetensors").items():
        assert torch.equal(value, expected[name]), name
