"""What must hold on a CUDA device; skipped where there is none, and by default, since `conftest.py` hides it."""

import json
from pathlib import Path

import pytest
import torch

from distill.objectives.density_ratio import RunningMean
from distill.training.config import read_config
from distill.training.launch import launch
from tests.helpers.random_teacher import save_random_teacher

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
    save_random_teacher(tmp_path / "teacher")
    (tmp_path / "run.yaml").write_text(
        json.dumps(
            {
                "task": "distill",
                "run_dir": str(tmp_path / "run"),
                "data": {"name": "digits"},
                "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
                "steps": 3,
                "batch_size": 4,
                "device": "cuda",
                "objective": {"name": "expanded_divergence", "divergence": "forward_kl"},
                "discriminator": {"reads": "fake", "own_noise": True},
                "ratio": {},
                "terms": [{"name": "gan", "weight": 0.1, "own_noise": True}],
                "log_every": 1,
            }
        )
    )
    assert launch(read_config(tmp_path / "run.yaml")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss/objective"] is not None for line in lines)
