"""DINOv2 ViT-L/14 at 224x224: the class token after the last normalisation, 1024-d.

The network is of Oquab et al. 2023; Stein et al. 2023 and EDM2 use it for Fréchet distances.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distill.eval.features import Extractor, NormalisedNetwork

MODEL = "facebook/dinov2-large"
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
OFFSET = 0.1
"""The authors' code adds this to the number of patches when it scales position embeddings.

Transformers does not.
"""


class DINOv2(NormalisedNetwork):
    """A `Dinov2Model` of transformers with position embeddings scaled as in the authors' code.

    It takes images (b, 3, s, s), s a multiple of the patch size.
    """

    def __init__(self, network: Any, size: int = 224) -> None:
        super().__init__(network, size, MEAN, DEVIATION)
        table = network.embeddings.position_embeddings
        network.embeddings.position_embeddings = torch.nn.Parameter(
            positions(table.detach(), size // network.config.patch_size)
        )
        network.config.image_size = size

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> dict[str, Tensor]:
        return {"features": self.network(self.normalise(images)).last_hidden_state[:, 0]}


def positions(table: Float[Tensor, "1 n w"], side: int) -> Float[Tensor, "1 m w"]:
    """Scale position embeddings, a class token's and a square's, to side x side patches.

    Does what torch.hub's `dinov2_vitl14` does.
    """
    stored = round((table.shape[1] - 1) ** 0.5)
    if stored == side:
        return table
    square = table[:, 1:].reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / stored
    scaled = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([table[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def load(weights: str | None) -> Extractor:
    """Open a folder that transformers wrote; without one, download Meta's weights."""
    from transformers import Dinov2Model

    from distill.rewards.pretrained.weights import read_pretrained

    return DINOv2(read_pretrained(Dinov2Model, weights or MODEL, "--weights"))
