"""EfficientNet-Lite0 trained on ImageNet, 1280-d (Tan and Le 2019).

Its weights come with a Python package, so features of natural images need no download.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from distill.eval.features import Extractor
from distill.networks import efficientnet_lite0
from distill.networks.efficientnet_lite0 import DEVIATION, MEAN


class EfficientNetLite0(Extractor):
    """Maps images of 224x224 to the output of the last pool."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> dict[str, Tensor]:
        return {"features": efficientnet_lite0.pool(self.network, (images - MEAN) / DEVIATION)}


def load(weights: str | None) -> Extractor:
    """Open a file of weights, by default the installed one."""
    return EfficientNetLite0(efficientnet_lite0.load(weights))
