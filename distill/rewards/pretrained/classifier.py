"""Image classifiers as rewards: a small convolutional network of this project, or any of transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config.errors import UserError
from distill.networks.folder import CONFIG, FORMAT, WEIGHTS, build_network, read_description
from distill.rewards import labels_of
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.rewards.pretrained.weights import describe_config
from distill.storage.files import read_mapping, write_json
from distill.storage.tensors import load_weights, save_tensors
from distill.types import Condition, Reward

KIND = "classifier"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a `Classifier`: each of its stages, of `widths` channels, halves the resolution."""

    resolution: int
    channels: int
    label_count: int
    widths: tuple[int, ...] = (24, 48)

    def __post_init__(self) -> None:
        if self.resolution % 2 ** len(self.widths):
            raise ValueError(
                f"resolution {self.resolution} does not halve {len(self.widths)} times, "
                f"as {len(self.widths)} widths say"
            )


class Classifier(nn.Module):
    """Map images (b, channels, resolution, resolution) to logits (b, label_count), smooth in the images.

    Images are in [-1, 1]; values beyond are clipped.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.image_shape = (config.channels, config.resolution, config.resolution)
        stages: list[nn.Module] = []
        width = config.channels
        for outputs in config.widths:
            for inputs in (width, outputs):
                stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.SiLU()]
            stages.append(nn.AvgPool2d(2))
            width = outputs
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(width * (config.resolution >> len(config.widths)) ** 2, config.label_count)

    def describe(self) -> dict[str, Any]:
        """Return the sizes as plain data."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Classifier:
        """Build the network of a description. Raises TypeError or ValueError where it is none."""
        return cls(ClassifierConfig(**description))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits."""
        if images.shape[1:] != self.image_shape:
            found = tuple(images.shape[1:])
            raise UserError(f"classifier: images of {found}; expected {self.image_shape} as the network's")
        return self.head(self.body(images.clamp(-1, 1)).flatten(1))


class PublishedClassifier(nn.Module):
    """Map images (b, c, h, w) in [-1, 1] to logits (b, k) by an image classifier of transformers.

    Images are preprocessed as the classifier was published.
    """

    def __init__(self, network: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.network(pixel_values=self.preprocessing(images)).logits

    def describe(self) -> dict[str, Any]:
        """Return sizes and preprocessing as plain data."""
        return {
            "vision": describe_config(self.network.config),
            "preparation": dataclasses.asdict(self.preprocessing),
        }


class LabelLogProbability(Reward):
    """Score an image by log p(label | image) under a classifier: the natural logarithm, at most 0.

    A label that the classifier does not know raises UserError, and in training, where a look at the labels
    would wait for the device, gives a score that is not a number.
    """

    def __init__(self, classifier: Classifier | PublishedClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        logits = self.classifier(images)
        count = logits.shape[1]
        label = labels_of(cond, count, "classifier", check_range=not logits.requires_grad)
        known = label.clamp(0, count - 1)
        scores = F.log_softmax(logits, dim=1).gather(1, known[:, None])[:, 0]
        return scores.where(label == known, torch.nan)

    def describe(self) -> dict[str, Any]:
        return self.classifier.describe()


def is_own(folder: Path) -> bool:
    """Tell a folder in this project's format from one of another library's."""
    return (folder / CONFIG).is_file() and "format" in read_mapping(folder / CONFIG)


def save_classifier(network: Classifier, folder: Path, made: dict[str, Any]) -> None:
    """Write a classifier into an existing folder; `made` records how it was trained and its accuracy."""
    described = {"class": "Classifier", **network.describe()}
    write_json(folder / CONFIG, {"format": FORMAT, "kind": KIND, "network": described, "made": made})
    save_tensors(folder / WEIGHTS, network.state_dict())


def load_classifier(folder: Path) -> Classifier:
    """Open a classifier that `save_classifier` wrote."""
    described = read_description(folder, KIND)["network"]
    network = build_network(described, folder / CONFIG, {Classifier.__name__: __name__})
    load_weights(network, folder / WEIGHTS)
    return network
