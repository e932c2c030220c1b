"""The digits that come with the package are scikit-learn's."""

from __future__ import annotations

import pytest
import torch

from benchmarks.digits_data import split_digits
from distill.data.sources.digits import Settings


@pytest.mark.parametrize(("split", "count"), [("train", 1437), ("held_out", 360)])
def test_images_and_labels_are_those_of_scikit_learn(split: str, count: int) -> None:
    found = Settings().load(split)
    expected = {name: torch.from_numpy(values) for name, values in split_digits().items()}
    assert found.images.shape == (count, 1, 8, 8)
    assert found.images.dtype == torch.float32
    assert torch.equal(8 * (found.images[:, 0] + 1), expected[f"{split}_images"].float())
    assert torch.equal(found.labels, expected[f"{split}_labels"].long())
    shares = found.labels.bincount(minlength=10) / count
    assert shares.min() > 0.096
    assert shares.max() < 0.103
