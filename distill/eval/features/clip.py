"""Image embeddings of CLIP ViT-L/14 at 336x336, 768-d, of length 1 (Radford et al. 2021).

CMMD compares them (Jayasumana et al. 2024).
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from distill.eval.features import Extractor, NormalisedNetwork
from distill.rewards.pretrained.preprocessing import CLIP_DEVIATION, CLIP_MEAN

MODEL = "openai/clip-vit-large-patch14-336"


class CLIP(NormalisedNetwork):
    """The image side of a `CLIPModel` of transformers, with its projection."""

    def __init__(self, clip: Any) -> None:
        size = clip.config.vision_config.image_size
        super().__init__(clip.vision_model, size, CLIP_MEAN, CLIP_DEVIATION)
        self.projection = clip.visual_projection

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> dict[str, Tensor]:
        pooled = self.network(pixel_values=self.normalise(images)).pooler_output
        return {"features": F.normalize(self.projection(pooled), dim=1)}


def load(weights: str | None) -> Extractor:
    """Open a folder that transformers wrote, or download OpenAI's weights."""
    from transformers import CLIPModel

    from distill.rewards.pretrained.weights import read_pretrained

    return CLIP(read_pretrained(CLIPModel, weights or MODEL, "--weights"))
