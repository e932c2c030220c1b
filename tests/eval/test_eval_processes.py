"""Metrics of two processes that talk over gloo are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.shared_metrics import METRICS, SHARES, compute


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[object]]]:
    """Results of each of two processes, by how the images are shared."""
    folder = tmp_path_factory.mktemp("shared")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "--",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, "tests.helpers.shared_metrics", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    both = [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]
    return {name: [one[name] for one in both] for name in SHARES}


@pytest.mark.slow
@pytest.mark.parametrize("shares", SHARES)
def test_two_processes_compute_what_one_does(found: dict[str, list[list[object]]], shares: str) -> None:
    """Metrics of all features are equal; the distance adds in another order, so its last digit may differ."""
    first, second = found[shares]
    assert first == second
    alone = [compute(build, torch.arange(130)) for build in METRICS]
    assert first[0] == pytest.approx(alone[0], rel=1e-9)
    assert first[1:] == alone[1:]
