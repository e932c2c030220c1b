"""Runs that are trained on a distance of features resume bit for bit, and say what does not judge them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.eval.features import load_extractor
from distill.eval.images.resize import pil_bicubic
from distill.networks.efficientnet_lite0 import FEATURES
from distill.objectives.representation import EfficientNetFeatures
from distill.objectives.terms.representation import Settings
from distill.publishing.report.page import write_report
from distill.publishing.run_record import note_of_features
from distill.training.settings.stop_condition import STOPPED
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    read_lines,
    train_run,
    write_run,
)
from train import main


@pytest.mark.parametrize("distance", ["frechet", "mmd"])
def test_a_run_resumes_bit_for_bit(distance: str, tmp_path: Path) -> None:
    term = {"name": "representation", "weight": 5.0, "distance": distance, "memory": 8, "real_images": 50}
    file = write_run(
        tmp_path,
        steps=4,
        batch_size=4,
        data={"name": "digits"},
        objective={"name": "score_matching"},
        terms=[term],
        checkpoint_every=2,
        log_every=1,
    )
    whole = checkpoint_tensors(train_run(file))
    assert [name for name in whole if name.startswith("representation")]
    elsewhere = f"--run_dir={tmp_path / 'resumed'}"
    stop = "--stop_when=[{measure: representation/distance, above: -1e9, start_step: 2}]"
    train_run(file, elsewhere, stop, exit_code=STOPPED)
    assert_same_tensors(checkpoint_tensors(train_run(file, elsewhere)), whole)
    losses = [line["loss/representation"] for line in read_lines(tmp_path / "run")]
    assert (losses[0], losses[-1] != 0) == (0, True)  # it waits for its memory


def test_a_run_says_which_features_do_not_judge_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """meta.json names them, training warns and marks its measurements, and eval and the report say so."""
    file = write_run(
        tmp_path,
        steps=1,
        batch_size=4,
        data={"name": "digits"},
        objective={"name": "score_matching"},
        terms=[{"name": "representation", "weight": 1.0, "memory": 4, "real_images": 50}],
        monitor_every=1,
        monitor_images=70,
    )
    assert main([str(file)]) == 0
    run = tmp_path / "run"
    assert json.loads((run / "meta.json").read_text())["trained_features"] == ["pixels"]
    note = "trained on the features pixels: distances, precision and recall by them do not judge this run"
    warning = f"monitor_protocol: fd-pixel measures what the run minimises; {note}\n"
    assert warning in capsys.readouterr().err
    assert read_lines(run)[-1]["monitor/trained_features"] == 1
    write_report(run)
    assert note.capitalize() in (run / "report.html").read_text()


def test_other_features_judge_the_run() -> None:
    meta = {"trained_features": ["efficientnet_lite0", "pixels"]}
    assert note_of_features(meta, "inception") is None
    assert note_of_features({}) is None
    found = note_of_features(meta, "pixels")
    assert (
        found
        == "trained on the features pixels: distances, precision and recall by them do not judge this run"
    )
    assert "efficientnet_lite0 and pixels" in (note_of_features(meta) or "")


def test_features_of_efficientnet_are_those_of_measurements() -> None:
    """They differ by the rounding of resized pixels alone, and have a gradient."""
    extractor = load_extractor("efficientnet_lite0")
    levels = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    prepared = torch.stack([pil_bicubic(image, 224) for image in levels.to(torch.uint8)])
    expected = extractor(prepared)["features"]
    images = (levels / 127.5 - 1).requires_grad_()
    found = EfficientNetFeatures(extractor.network)(images)
    assert found.shape == (2, FEATURES)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(found.sum(), images)[0].abs().sum() > 0


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    from tests.helpers.gaussian_teacher import GaussianTeacher

    teacher = GaussianTeacher()
    teacher.image_shape = (3, 64, 64)
    with pytest.raises(UserError, match="representation's features are the 12288 values of an image"):
        Settings(weight=1.0).check_model(teacher)
