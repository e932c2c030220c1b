"""log p(label | image), the log-probability that an image classifier gives the label that the image was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward


class Settings(RewardSettings):
    """The log-probability of the label under an image classifier; at most 0."""

    name: Literal["classifier"] = "classifier"
    path: str
    """Folder that `python -m distill train-classifier` made, or of an image classifier of transformers, or its name on the Hugging Face hub."""

    def load(self) -> Reward:
        """Open it, on the CPU. Raises UserError where its files cannot be had or are another network's."""
        from transformers import AutoModelForImageClassification

        from distill.rewards.pretrained.classifier import (
            LabelLogProbability,
            PublishedClassifier,
            is_own,
            load_classifier,
        )
        from distill.rewards.pretrained.preprocessing import read_preparation
        from distill.rewards.pretrained.weights import read_pretrained

        if is_own(Path(self.path)):
            return LabelLogProbability(load_classifier(Path(self.path))).eval().requires_grad_(False)
        network = read_pretrained(AutoModelForImageClassification, self.path, "classifier.path")
        preparation = read_preparation(self.path, "classifier.path")
        return LabelLogProbability(PublishedClassifier(network, preparation)).eval().requires_grad_(False)
