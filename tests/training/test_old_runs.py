"""A run from before the modules moved into rooms resumes, with the random numbers of this version."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from distill import load_generator
from distill.storage.tensors import load_tensors
from tests.helpers.runs import train_run

OLD = Path(__file__).parents[1] / "oracles" / "run_before_the_rooms"
"""SIM on the ring with tiny networks, trained by commit 452c28c.

It holds the checkpoint after step 2 of 4. `finished` has the weights after step 4, which were made when the
random numbers of batches became functions of the sample.
"""


def test_an_old_run_resumes_to_the_same_weights_each_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run, ignore=shutil.ignore_patterns("finished"))
    train_run(run / "config.yaml", f"--run_dir={run}", "--device=cpu")
    for name in ("generator", "fake", "model"):
        found = load_tensors(run / "checkpoints" / "step-00000004" / f"{name}.safetensors")
        expected = load_tensors(OLD / "finished" / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_an_old_checkpoint_opens_as_a_generator() -> None:
    generator = load_generator(OLD / "checkpoints" / "step-00000002")
    assert generator.evaluations == 1
    assert generator.image_shape == (2,)
