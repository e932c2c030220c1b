"""Training of a linear map of ImageNet features and of word embeddings on captioned images."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter

import torch
from torch import Tensor, nn

from distill.config.progress import track
from distill.rewards.pretrained.contrastive.loss import false_negatives, finite_loss
from distill.rewards.pretrained.contrastive.sources import (
    CaptionedSource,
    batches,
    draw_captions,
    read_images,
)
from distill.rewards.pretrained.word_match import (
    AT_ONCE,
    ImageNetFeatures,
    WordMatch,
    WordMatchReward,
    open_features,
    words_of,
)

TEMPERATURE = 0.07
"""Temperature of the contrastive loss, CLIP's at its start."""
FEATURE_DROPOUT = 0.6
"""Share of the features that are left out in training."""
WEIGHT_DECAY = 0.1
WORD_DROPOUT = 0.3
"""Share of the words of a caption that are left out in training."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Sizes of a `WordMatch` and settings of its training."""

    steps: int = 600
    seed: int = 0
    batch_size: int = 256
    width: int = 128
    size: int = 128
    learning_rate: float = 3e-3


def train_word_match(data: CaptionedSource, recipe: Recipe) -> WordMatchReward:
    """Train the linear map and the word embeddings on captioned images; the same on the same machine.

    The reward comes in evaluation mode and frozen.
    """
    features = open_features(recipe.size)
    inputs = features_of(features, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        counts = Counter(word for caption in data.captions.texts for word in words_of(caption))
        match = WordMatch(sorted(counts), recipe.width)
        match.mean.copy_(inputs.mean(0))
        match.deviation.copy_(inputs.std(0).clamp_min(1e-3))
        _fit(match, inputs, data, recipe)
    return WordMatchReward(features, match).eval().requires_grad_(False)


def features_of(features: ImageNetFeatures, data: CaptionedSource) -> Tensor:
    """Compute the features of all images, (n, 1280)."""
    starts = track(range(0, len(data), AT_ONCE), "features", "batches", leave=True)
    with torch.no_grad():
        blocks = [
            features(read_images(data, range(start, min(start + AT_ONCE, len(data))))) for start in starts
        ]
    return torch.cat(blocks)


def _fit(match: WordMatch, inputs: Tensor, data: CaptionedSource, recipe: Recipe) -> None:
    """Train in place by AdamW with CLIP's contrastive loss."""
    chooser = random.Random(recipe.seed)
    optimizer = torch.optim.AdamW(match.parameters(), lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
    )
    dropout = nn.Dropout(FEATURE_DROPOUT)
    rows_of_batches = batches(len(data), recipe.batch_size)
    for step in track(range(recipe.steps), "train-word-match", leave=True):
        rows = next(rows_of_batches)
        captions = [data.captions.of_images[row] for row in rows]
        texts = draw_captions(captions, chooser, WORD_DROPOUT)
        images = match.embed_features(match.mean + dropout(inputs[rows] - match.mean))
        logits = images @ match.embed_texts(texts).T / TEMPERATURE
        optimizer.zero_grad()
        finite_loss(logits, false_negatives(texts, captions), step).backward()
        optimizer.step()
        schedule.step()
