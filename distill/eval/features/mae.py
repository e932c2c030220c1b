"""Masked autoencoder ViT-L/16 at 224x224: the class token after the last normalisation, 1024-d.

The network is of He et al. 2022, trained to fill in masked patches; here none are masked. It is one of the
six kinds of features of FDr^6 (Yang et al. 2026).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.eval.features import Extractor, NormalisedNetwork
from distill.eval.features.dinov2 import DEVIATION, MEAN

MODEL = "facebook/vit-mae-large"
EPSILON = 1e-6
"""The authors' normalisation layers add this to the variance. Transformers adds 1e-12."""


class MAE(NormalisedNetwork):
    """A `ViTMAEModel` of transformers that sees all patches, in their order."""

    def __init__(self, network: Any) -> None:
        super().__init__(network, network.config.image_size, MEAN, DEVIATION)
        network.config.mask_ratio = 0.0
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = EPSILON
        self.patches = (self.size // network.config.patch_size) ** 2

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> dict[str, Tensor]:
        order = torch.arange(self.patches, device=images.device).float().expand(len(images), -1)
        found = self.network(self.normalise(images), noise=order)
        return {"features": found.last_hidden_state[:, 0]}


def load(weights: str | None) -> Extractor:
    """Open a folder that transformers wrote, or download Meta's weights."""
    from transformers import ViTMAEModel

    from distill.rewards.pretrained.weights import read_pretrained

    return MAE(read_pretrained(ViTMAEModel, weights or MODEL, "--weights"))
