"""LAION's aesthetic predictor: a linear head on the unit embedding of an image by CLIP ViT-L/14 (Schuhmann 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distill.rewards.pretrained.clip import ImageEmbedding
from distill.rewards.pretrained.score_head import ScoreHead
from distill.rewards.pretrained.weights import read_state
from distill.storage.tensors import check_weights
from distill.types import Condition, Reward


class Aesthetic(Reward):
    """How good an image looks, about 1 to 10; it reads no condition."""

    def __init__(self, image: ImageEmbedding, head: ScoreHead) -> None:
        super().__init__()
        self.image, self.head = image, head

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        return self.head(self.image(images))

    def describe(self) -> dict[str, Any]:
        """Return what decides the reward besides its weights."""
        return self.image.describe()


def read_head(path: Path, features: int) -> ScoreHead:
    """The published head. Raises UserError, naming the first weight that differs, where the file holds another network's."""
    head, tensors = ScoreHead(features), read_state(path)
    check_weights(head, tensors, path)
    head.load_state_dict(tensors)
    return head
