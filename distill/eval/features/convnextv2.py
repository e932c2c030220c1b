"""ConvNeXt V2 base at 224x224: the mean of the last feature map, 1024-d, without the last normalisation.

The network is of Woo et al. 2023, trained without labels and then on ImageNet-22k and ImageNet-1k. It is one
of the six kinds of features of FDr^6 (Yang et al. 2026).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distill.eval.features import Extractor, NormalisedNetwork
from distill.eval.features.dinov2 import DEVIATION, MEAN

MODEL = "facebook/convnextv2-base-22k-224"
SIZE = 224


class ConvNeXtV2(NormalisedNetwork):
    """A `ConvNextV2Model` of transformers."""

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> dict[str, Tensor]:
        return {"features": self.network(self.normalise(images)).last_hidden_state.mean((2, 3))}


def load(weights: str | None) -> Extractor:
    """Open a folder that transformers wrote, or download Meta's weights."""
    from transformers import ConvNextV2Model

    from distill.rewards.pretrained.weights import read_pretrained

    return ConvNeXtV2(read_pretrained(ConvNextV2Model, weights or MODEL, "--weights"), SIZE, MEAN, DEVIATION)
