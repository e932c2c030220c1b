"""Tests check the shapes and types of functions as they run, and run on the CPU.

Their numbers are a CPU's, and some tests expect that there is no CUDA device: it is hidden from them and from
the processes that they start. `pytest -m gpu` runs the tests that need one.
"""

import gc
import os
import sys
from collections.abc import Iterator

import jaxtyping
import pytest

from tests.helpers import typechecker
from tests.helpers.gpu_marker import asks_for_gpu

typechecker.install("distill")


def pytest_configure(config: pytest.Config) -> None:
    """Hide CUDA devices, before torch looks for them, unless the tests of the marker `gpu` are asked for."""
    if not asks_for_gpu(config.option.markexpr):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_collection_finish() -> None:
    """Leave what was imported out of each garbage collection to come: there are millions of objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _reset_accelerate() -> Iterator[None]:
    """Reset accelerate after each test: the precision of a run would hold for later runs of the process."""
    yield
    state = sys.modules.get("accelerate.state")  # a test that needs no torch does not import it
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Check no shapes and types: torch.compile cannot look into the checks, and they slow long work down."""
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", checks)


@pytest.fixture
def code_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give diffusers a new folder for the code that it copies out of a pipeline's folder and runs."""
    monkeypatch.setattr(
        "diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules"))
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
