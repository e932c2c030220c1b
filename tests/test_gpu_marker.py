"""Tests that need a GPU run when they are asked for, and are code that works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gpu_marker import asks_for_gpu

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("not slow or (gpu)", True),
        ("not slow and not gpu", False),
        ("slow", False),
        ("", False),
    ],
)
def test_devices_are_left_visible_where_the_marker_is_asked_for(expression: str, expected: bool) -> None:
    assert asks_for_gpu(expression) is expected


def run_pytest(*words: str, **environment: str) -> str:
    """Run pytest on the tests of the marker in a process of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_tests_for_a_gpu_are_skipped_without_one() -> None:
    output = run_pytest("tests/gpu/test_random_numbers.py", "-m", "gpu", DISTILL_GPU_TESTS_ON_CPU="0")
    assert "needs a CUDA device, and `pytest -m gpu`" in output
    assert " skipped" in output
    assert "passed" not in output


@pytest.mark.slow
def test_tests_for_a_gpu_pass_on_the_cpu() -> None:
    """The tests of compilation take minutes, so that those of one method run."""
    chosen = "not compilation or score_matching"
    output = run_pytest("tests/gpu", "-m", "gpu", "-k", chosen, DISTILL_GPU_TESTS_ON_CPU="1")
    assert "skipped" not in output
