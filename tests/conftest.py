"""Shapes and types of functions are checked while tests run, and the CPU is where they run.

The tests' numbers are a CPU's, and some expect that there is no CUDA device: it is hidden from them and from the processes that they start.
`CUDA_VISIBLE_DEVICES=0 pytest tests/training/test_cuda.py` runs what needs one.
"""

import os
import sys

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
from jaxtyping import install_import_hook

import tests.helpers.typechecker  # noqa: F401 - the hook below looks it up

install_import_hook(["distill", "eval"], "tests.helpers.typechecker.check")


@pytest.fixture
def code_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own for the code that diffusers copies out of a pipeline's folder before it runs it."""
    monkeypatch.setattr(
        "diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules"))
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
