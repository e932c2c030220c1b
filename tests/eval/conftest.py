"""Results of the original packages, for the tests that compare."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.helpers.fidelity_oracle import packages, seeded_inception


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Results of the original packages, computed in a process of its own."""
    if not packages().is_dir():
        pytest.skip(f"clean-fid and torch-fidelity are not in {packages()}, where make test installs them")
    out = tmp_path_factory.mktemp("oracle")
    torch.save(seeded_inception().state_dict(), out / "inception.pth")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.fidelity_oracle", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(out / "values.npz") as values:
        return dict(values)
