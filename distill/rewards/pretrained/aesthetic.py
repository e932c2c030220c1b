"""LAION's aesthetic predictor (Schuhmann 2022): a linear head on CLIP ViT-L/14's unit embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distill.rewards.pretrained.clip import ImageEmbedding
from distill.rewards.pretrained.score_head import ScoreHead
from distill.storage.tensors import check_weights, read_state
from distill.types import Condition, Reward


class Aesthetic(Reward):
    """Score how good an image looks, about 1 to 10. The condition is not read."""

    def __init__(self, image: ImageEmbedding, head: ScoreHead) -> None:
        super().__init__()
        self.image, self.head = image, head

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        return self.head(self.image(images))

    def describe(self) -> dict[str, Any]:
        return self.image.describe()


def read_head(path: Path, features: int) -> ScoreHead:
    """Read the published head, for embeddings of `features` elements."""
    head = ScoreHead(features)
    tensors = read_state(path)
    check_weights(head, tensors, path)
    head.load_state_dict(tensors)
    return head
