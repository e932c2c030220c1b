"""A run that uses every part of the method, shared by the tests of whole runs."""

from pathlib import Path

import pytest

from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import train_in_processes, write_run


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run with discriminator, R1, ratio, GAN, regression, two fake updates, dropout and a monitor."""
    folder = tmp_path_factory.mktemp("runs")
    save_random_teacher(folder / "teacher", dropout=0.1)
    return write_run(
        folder,
        data={"name": "digits"},
        steps=12,
        batch_size=4,
        objective={"name": "expanded_divergence", "divergence": "0.4*forward_kl+0.6*reverse_kl"},
        fake={"updates": 2},
        discriminator={
            "reads": "fake",
            "depths": ["4"],
            "width": 8,
            "r1": {"weight": 0.1, "approximate": True},
        },
        teacher_samples={"path": str(folder / "samples"), "count": 6, "sampler": {"steps": 2}},
        ratio={"bins": 2},
        terms=[{"name": "gan", "weight": 0.1, "start_step": 2}, {"name": "regression", "weight": 0.2}],
        sample_every=6,
        checkpoint_every=4,
        monitor_every=12,
        monitor_images=16,
    )


@pytest.fixture(scope="session")
def uninterrupted(run_file: Path) -> Path:
    """Train the run without interruption, and return its folder. Tests leave it as it is."""
    done = train_in_processes(run_file)
    assert done.returncode == 0, done.stderr
    return run_file.parent / "run"
