"""The device of the tests that need a GPU: `pytest -m gpu`.

With DISTILL_GPU_TESTS_ON_CPU=1 they run on the CPU instead. It shows that they work, not that a GPU is right.
"""

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it in its first call


@pytest.fixture
def device() -> torch.device:
    """Return the device to compare with the CPU; skip the test where there is none."""
    if os.environ.get("DISTILL_GPU_TESTS_ON_CPU") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and `pytest -m gpu`, which does not hide it")
    return torch.device("cuda", 0)
