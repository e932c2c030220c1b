"""Image classifiers as rewards: a small one of our own, any of transformers, and the log-probability that they give a label."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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
    """Sizes of a `Classifier`. The resolution halves after each of `widths`, the channels of its stages."""

    resolution: int
    channels: int
    label_count: int
    widths: tuple[int, ...] = (24, 48)

    def __post_init__(self) -> None:
        if self.resolution % 2 ** len(self.widths):
            raise ValueError(
                f"resolution {self.resolution} does not halve {len(self.widths)} times, as {len(self.widths)} widths say"
            )


class Classifier(nn.Module):
    """Images (b, channels, resolution, resolution) in [-1, 1] -> logits (b, label_count), smooth in the images. What overshoots is clipped."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.image_shape = (config.channels, config.resolution, config.resolution)
        stages, width = [], config.channels
        for outputs in config.widths:
            for inputs in (width, outputs):
                stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.SiLU()]
            stages.append(nn.AvgPool2d(2))
            width = outputs
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(width * (config.resolution >> len(config.widths)) ** 2, config.label_count)

    def describe(self) -> dict[str, Any]:
        """Its sizes, as plain data."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Classifier:
        """The network of that description. Raises TypeError or ValueError where it is none."""
        return cls(ClassifierConfig(**description))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """The logits. Raises UserError for images of another shape."""
        if images.shape[1:] != self.image_shape:
            raise UserError(
                f"classifier: images of {tuple(images.shape[1:])}; expected {self.image_shape} as the network's"
            )
        return self.head(self.body(images.clamp(-1, 1)).flatten(1))


class PublishedClassifier(nn.Module):
    """Images (b, c, h, w) in [-1, 1] -> logits (b, k), by an image classifier of transformers with its own preparation."""

    def __init__(self, network: Any, preparation: Preprocessing) -> None:
        super().__init__()
        self.network, self.preparation = network, preparation

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.network(pixel_values=self.preparation(images)).logits

    def describe(self) -> dict[str, Any]:
        """Return its sizes and the preparation, as plain data."""
        return {
            "vision": describe_config(self.network.config),
            "preparation": dataclasses.asdict(self.preparation),
        }


class LabelLogProbability(Reward):
    """log p(label | image) under a classifier, natural logarithm, at most 0."""

    def __init__(self, classifier: Classifier | PublishedClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        """The reward. Raises UserError where an image has no label, or one that the classifier does not know."""
        logits = self.classifier(images)
        label = labels_of(cond, logits.shape[1], "classifier")
        return F.log_softmax(logits, dim=1).gather(1, label[:, None])[:, 0]

    def describe(self) -> dict[str, Any]:
        """Return what decides the reward besides its weights."""
        return self.classifier.describe()


def is_own(folder: Path) -> bool:
    """Whether a folder holds a network in this project's format."""
    return (folder / CONFIG).is_file() and "format" in read_mapping(folder / CONFIG)


def save_classifier(network: Classifier, folder: Path, made: dict[str, Any]) -> None:
    """Write a classifier into an existing folder, with how it was `made` and what it is worth."""
    write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "kind": KIND,
            "network": {"class": "Classifier", **network.describe()},
            "made": made,
        },
    )
    save_tensors(folder / WEIGHTS, network.state_dict())


def load_classifier(folder: Path) -> Classifier:
    """Open a classifier of our own. Raises UserError where the folder holds something else."""
    network = build_network(
        read_description(folder, KIND)["network"], folder / CONFIG, {Classifier.__name__: __name__}
    )
    load_weights(network, folder / WEIGHTS)
    return network
