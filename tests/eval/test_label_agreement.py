"""The label classifier on held-out digits."""

from __future__ import annotations

import pytest
import torch

from distill.config.errors import UserError
from distill.data.sources.digits import Settings
from distill.eval.features import quantise
from distill.eval.features.pixels import pixels
from distill.eval.metrics import label_agreement
from distill.eval.metrics.label_agreement import LabelClassifier

TRAIN, HELD_OUT = (Settings().load(split) for split in ("train", "held_out"))


def test_agreement_on_held_out_digits() -> None:
    classifier = LabelClassifier.fit(pixels(quantise(TRAIN.images)), TRAIN.labels)
    features = pixels(quantise(HELD_OUT.images))
    right = classifier.agreement(features, HELD_OUT.labels)
    assert right == pytest.approx(358 / 360, abs=1.5 / 360)
    assert classifier.agreement(features, (HELD_OUT.labels + 1) % 10) < 0.01
    half_wrong = torch.where(torch.arange(360) % 2 == 0, HELD_OUT.labels, (HELD_OUT.labels + 1) % 10)
    assert classifier.agreement(features, half_wrong) == pytest.approx(right / 2, abs=0.01)


def test_learns_from_a_bounded_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_agreement, "MAX_IMAGES", 500)
    classifier = LabelClassifier.fit(pixels(quantise(TRAIN.images)), TRAIN.labels)
    assert classifier.machine.shape_fit_[0] == 479  # every third of 1437
    assert classifier.agreement(pixels(quantise(HELD_OUT.images)), HELD_OUT.labels) > 0.95


def test_one_label_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^label agreement: the training images all have one label; expected at least 2$"
    ):
        LabelClassifier.fit(pixels(quantise(TRAIN.images[:5])), torch.zeros(5, dtype=torch.int64))
