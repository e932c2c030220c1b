"""log p(label | image): the log-probability of an image's label under an image classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.installation import find_asset
from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward


class Settings(RewardSettings):
    """The log-probability of the label under an image classifier; at most 0."""

    name: Literal["classifier"] = "classifier"
    path: str
    """Folder that `python -m distill train-classifier` wrote, or an image classifier of transformers: its
    folder or its name on the Hugging Face hub."""

    def load(self) -> Reward:
        from transformers import AutoModelForImageClassification

        from distill.rewards.pretrained.classifier import (
            LabelLogProbability,
            PublishedClassifier,
            is_own,
            load_classifier,
        )
        from distill.rewards.pretrained.preprocessing import read_preprocessing
        from distill.rewards.pretrained.weights import read_pretrained

        folder = find_asset(Path(self.path))
        if is_own(folder):
            return LabelLogProbability(load_classifier(folder)).eval().requires_grad_(False)
        network = read_pretrained(AutoModelForImageClassification, self.path, "classifier.path")
        preprocessing = read_preprocessing(self.path, "classifier.path")
        return LabelLogProbability(PublishedClassifier(network, preprocessing)).eval().requires_grad_(False)
