"""The contrastive loss, false negatives, augmentation and retrieval behind `train-clip` and the judge."""

from __future__ import annotations

import math
import random

import pytest
import torch

from distill.config.errors import TrainingError
from distill.rewards.pretrained.contrastive.augmentation import augment
from distill.rewards.pretrained.contrastive.loss import contrastive_loss, false_negatives, finite_loss
from distill.rewards.pretrained.contrastive.retrieval import retrieval
from distill.rewards.pretrained.contrastive.sources import batches, draw_captions


def test_the_loss_of_three_pairs_of_which_two_captions_are_equal() -> None:
    """The first two pairs share a caption: neither counts in the other's sums, written out here."""
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, -1.0], [0.3, 0.7, 1.5]])
    excluded = false_negatives(["a", "A", "b"], [["a"], ["a"], ["b"]])
    assert excluded.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    e = math.exp
    captions_of_images = [
        e(2.0) / (e(2.0) + e(0.5)),
        e(3.0) / (e(3.0) + e(-1.0)),
        e(1.5) / (e(0.3) + e(0.7) + e(1.5)),
    ]
    images_of_captions = [
        e(2.0) / (e(2.0) + e(0.3)),
        e(3.0) / (e(3.0) + e(0.7)),
        e(1.5) / (e(0.5) + e(-1.0) + e(1.5)),
    ]
    expected = -sum(map(math.log, captions_of_images + images_of_captions)) / 6
    assert contrastive_loss(logits, excluded).item() == pytest.approx(expected, rel=1e-6)
    assert contrastive_loss(logits).item() > expected + 0.05


def test_a_part_of_an_images_captions_is_no_negative_of_it() -> None:
    """A caption that is true of an image is none of its negatives; one with a part more is."""
    of_images = [["red apple, food, noto style"], ["red apple, food, 3d style"], ["rat, animal, 3d style"]]
    texts = ["red apple", "red apple, food, 3d style", "3d style"]
    assert false_negatives(texts, of_images).tolist() == [
        [False, False, False],
        [True, False, True],
        [False, False, False],
    ]


def test_captions_lose_parts_and_words_but_never_all() -> None:
    chooser = random.Random(0)
    caption = "red apple, food fruit, 3d style"
    drawn = draw_captions([[caption]] * 500, chooser, word_dropout=0.4)
    known = caption.replace(",", "").split()
    assert all(set(text.replace(",", "").split()) <= set(known) and text for text in drawn)
    assert {len(text.replace(",", "").split()) for text in drawn} == {1, 2, 3, 4, 5, 6}
    whole = draw_captions([[caption]] * 500, chooser, word_dropout=0.0)
    assert sum(text == caption for text in whole) / 500 == pytest.approx(0.7, abs=0.06)


def test_batches_show_every_row_once_in_each_order() -> None:
    rows = batches(6, 4)
    seen = [row for _ in range(3) for row in next(rows)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_augmented_images_stay_images_and_differ() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    changed = augment(images)
    assert changed.shape == images.shape
    assert changed.abs().max() <= 1
    assert (changed - images).abs().mean() > 0.05


def test_retrieval_counts_ranks_and_ties_against_the_image() -> None:
    scores = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            [0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0],
        ]
    )
    found = retrieval(scores, [0, 1, 2])
    assert (found.images, found.captions) == (3, 7)
    assert (found.recall_at_1, found.recall_at_5) == (1 / 3, 2 / 3)
    assert found.mean_rank == pytest.approx((0 + 6 + 1) / 3 / 6)


def test_a_loss_that_is_not_finite_ends_training() -> None:
    logits, excluded = torch.full((2, 2), torch.nan), torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(TrainingError, match="the loss of step 4 is not finite; expected a smaller"):
        finite_loss(logits, excluded, 3)


def test_scores_that_are_no_numbers_find_nothing() -> None:
    found = retrieval(torch.full((2, 8), torch.nan), [0, 1])
    assert (found.recall_at_1, found.recall_at_5, found.mean_rank) == (0, 0, 1)
