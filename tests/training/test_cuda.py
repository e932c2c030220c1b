"""Tests that need a CUDA device.

They are skipped by default, since `tests/conftest.py` hides the device.
"""

from pathlib import Path

import pytest
import torch

from distill.objectives.density_ratio import RunningMean
from tests.helpers.runs import read_lines, train_run, write_run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, which tests/conftest.py hides"
)


def test_a_running_mean_is_the_same_to_the_bit_each_time() -> None:
    values = torch.randn(100_000, device="cuda").exp()
    bins = torch.randint(10, (100_000,), device="cuda")
    totals = []
    for _ in range(5):
        mean = RunningMean(10, decay=0.9).cuda()
        mean.add(values, bins)
        mean.commit(lambda total: total)
        totals.append(mean.total)
    assert all(torch.equal(totals[0], total) for total in totals)


def test_a_run_trains_on_the_device(tmp_path: Path) -> None:
    file = write_run(
        tmp_path,
        data={"name": "digits"},
        steps=3,
        batch_size=4,
        device="cuda",
        objective={"name": "expanded_divergence", "divergence": "forward_kl"},
        discriminator={"reads": "fake", "own_noise": True},
        ratio={},
        terms=[{"name": "gan", "weight": 0.1, "own_noise": True}],
    )
    lines = read_lines(train_run(file))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss/objective"] is not None for line in lines)
