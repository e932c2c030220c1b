"""Image embeddings of CLIP ViT-L/14 at 336x336, 768-d, of length 1 (Radford et al. 2021).

CMMD compares them (Jayasumana et al. 2024).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from distill.eval.features import Extractor, NormalisedNetwork

MODEL = "openai/clip-vit-large-patch14-336"
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class CLIP(NormalisedNetwork):
    """The image side of a CLIP of transformers, with its projection."""

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> dict[str, Tensor]:
        embeddings = self.network(pixel_values=self.normalise(images)).image_embeds
        return {"features": F.normalize(embeddings, dim=1)}


def load(weights: str | None) -> Extractor:
    """Open a folder that transformers wrote, or download OpenAI's weights."""
    from transformers import CLIPVisionModelWithProjection

    from distill.rewards.pretrained.weights import read_pretrained

    network = read_pretrained(CLIPVisionModelWithProjection, weights or MODEL, "--weights")
    return CLIP(network, network.config.image_size, MEAN, DEVIATION)
