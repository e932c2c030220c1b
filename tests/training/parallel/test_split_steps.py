"""A run makes the same steps however its batch and its networks are split.

Steps in float64 agree to rounding: one process, two, two that accumulate, two that share each network, and
two pairs that share it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.methods import METHODS
from tests.helpers.split_methods import write_each, write_methods
from tests.helpers.split_steps import Steps, take_split_steps

FULL = "--sharding.strategy=full"
HYBRID = ("--sharding.strategy=hybrid", "--sharding.group_size=2")
SPLITS = {
    "two": (2, ()),
    "two-accumulate": (2, ("--micro_batch_size=2",)),
    "sharded": (2, (FULL,)),
    "sharded-accumulate": (2, (FULL, "--micro_batch_size=2")),
    "hybrid": (4, HYBRID),
}
QUICK = ("sid", "f_distill")
IN_FLOAT32 = ("diffusers_full", "diffusers_lora", "reward")
"""Methods with networks that compute in float32: a pipeline, and a classifier."""
NORMALIZES = "edm2"
"""Its layers normalise their weights in each forward pass, and micro-batches take more of them."""
Take = Callable[[str], dict[str, Steps]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_methods(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def some_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_each(tmp_path_factory.mktemp("some"), {name: METHODS[name] for name in QUICK})


@pytest.fixture(scope="module")
def some_methods(some_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    """Return the steps of some methods on one process."""
    return take_split_steps(some_files, tmp_path_factory.mktemp("some-alone"))


@pytest.fixture(scope="module")
def all_methods(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    """Return the steps of all methods on one process."""
    return take_split_steps(files, tmp_path_factory.mktemp("all"))


def tolerance(method: str, split: str) -> float:
    """Return the largest difference of a weight after five steps of about 1e-2 that is rounding."""
    if method == NORMALIZES and "accumulate" in split:
        return 1e-4
    return 1e-6 if method in IN_FLOAT32 else 1e-12


def assert_same_steps(found: Steps, expected: Steps, largest: float) -> None:
    """Check that weights and metrics are the same up to rounding."""
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, rtol=0, atol=largest, msg=name)
    for step, (there, here) in enumerate(zip(found.metrics, expected.metrics, strict=True)):
        assert there == pytest.approx(here, rel=max(1e-9, 1e3 * largest), abs=max(1e-9, largest)), (
            f"step {step}"
        )


@pytest.mark.parametrize("split", ["sharded", pytest.param("two", marks=pytest.mark.slow)])
def test_some_methods_make_the_same_steps(
    split: str, some_files: dict[str, Path], some_methods: dict[str, Steps], tmp_path: Path
) -> None:
    processes, overrides = SPLITS[split]
    found = take_split_steps(some_files, tmp_path, overrides, processes)
    for name, steps in found.items():
        assert_same_steps(steps, some_methods[name], tolerance(name, split))


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_all_methods_make_the_same_steps(
    split: str, files: dict[str, Path], all_methods: dict[str, Steps], tmp_path: Path
) -> None:
    processes, overrides = SPLITS[split]
    found = take_split_steps(files, tmp_path, overrides, processes)
    for name, steps in found.items():
        assert_same_steps(steps, all_methods[name], tolerance(name, split))
