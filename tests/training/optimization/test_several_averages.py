"""Runs with several averages: all are kept and measured, the best is exported, and a resumed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from distill import load_generator
from distill.networks.folder import checkpoints
from distill.publishing.report.page import write_report
from distill.storage.tensors import load_tensors
from distill.training.settings.stop_condition import STOPPED
from tests.helpers.runs import assert_same_tensors, checkpoint_tensors, read_lines, train_run, write_run

AVERAGES = [0.0, {"half_life_images": 8.0}, 0.999]
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "objective": {"name": "score_matching"},
    "generator": {"ema": AVERAGES, "optimizer": {"lr": 1e-2}},
    "checkpoint_every": 2,
    "log_every": 1,
    "monitor_every": 2,
    "monitor_images": 4,
}


class Likeness:
    """Measures how far the mean of images is from that of the first ones, with the sign that is asked for."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).mean(1)

    def measure(self, features: torch.Tensor) -> dict[str, float]:
        return {"likeness": self.sign * float(features.double().mean())}


def test_the_best_average_is_exported_and_said(tmp_path: Path) -> None:
    for sign in (1.0, -1.0):
        folder = tmp_path / str(sign)
        folder.mkdir()
        run = train_run(write_run(folder, **SETTINGS), monitor=Likeness(sign))
        last = read_lines(run)[-1]
        found = [last[f"ema/{number}/likeness"] for number in (1, 2, 3)]
        best = int(last["ema/best"])
        assert len(set(found)) == 3
        assert found[best - 1] == min(found) == last["monitor/likeness"]
        checkpoint = checkpoints(run)[-1]
        assert json.loads((checkpoint / "progress.json").read_text())["ema_selected"] == best - 1
        chosen = load_tensors(checkpoint / f"average_{best}.safetensors")
        assert_same_tensors(load_tensors(checkpoint / "model.safetensors"), chosen)
        exported = load_generator(run).state_dict()
        for name, value in chosen.items():
            assert torch.equal(exported[name], value), name
        write_report(run)
        assert f"Of several averages of the weights number {best}, " in (run / "report.html").read_text()


def test_a_run_with_several_averages_resumes_bit_for_bit(tmp_path: Path) -> None:
    file = write_run(tmp_path, **SETTINGS)
    whole = checkpoint_tensors(train_run(file, monitor=Likeness(-1.0)))
    assert {f"average_{number}" for number in (1, 2, 3)} <= {name.partition(".")[0] for name in whole}
    elsewhere = f"--run_dir={tmp_path / 'resumed'}"
    stop = "--stop_when=[{measure: loss/objective, above: -1e9, start_step: 2}]"
    train_run(file, elsewhere, stop, exit_code=STOPPED, monitor=Likeness(-1.0))
    assert_same_tensors(checkpoint_tensors(train_run(file, elsewhere, monitor=Likeness(-1.0))), whole)
