"""CLIPScore (Hessel et al. 2021): the cosine of an image and its prompt under one of OpenAI's CLIP networks, in the convention that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

SCALES: dict[str, tuple[float, float | None]] = {
    "cosine": (1.0, None),
    "100": (100.0, 0.0),
    "2.5": (2.5, 0.0),
}
"""A convention's factor, and the least cosine that counts."""


def _as_text(value: object) -> object:
    """YAML reads 100 as a number."""
    return str(value) if isinstance(value, (int, float)) else value


class Settings(RewardSettings):
    """CLIPScore: how well an image fits its prompt."""

    name: Literal["clipscore"] = "clipscore"
    path: str = "openai/clip-vit-large-patch14"
    """Folder of a CLIP network with tokenizer and image processor, or its name on the Hugging Face hub, such as openai/clip-vit-base-patch32."""
    scale: Annotated[Literal["cosine", "100", "2.5"], BeforeValidator(_as_text)] = "cosine"
    """Convention: the `cosine` itself; 100 max(cosine, 0), as torchmetrics prints it; or 2.5 max(cosine, 0), as the paper does."""
    prefix: str = ""
    """Text before each prompt: the paper's scores have "A photo depicts "."""

    def load(self) -> Reward:
        """Open it, on the CPU. Raises UserError where its files cannot be had or are another network's."""
        from transformers import AutoTokenizer, CLIPModel

        from distill.rewards.pretrained.clip import Similarity
        from distill.rewards.pretrained.preprocessing import read_preparation
        from distill.rewards.pretrained.tokens import PublishedTokens
        from distill.rewards.pretrained.weights import open_pretrained, read_pretrained

        clip = read_pretrained(CLIPModel, self.path, "clipscore.path")
        tokenizer = open_pretrained(AutoTokenizer, self.path, "clipscore.path")
        preparation = read_preparation(self.path, "clipscore.path")
        scale, least = SCALES[self.scale]
        return (
            Similarity(self.name, clip, PublishedTokens(tokenizer), preparation, scale, least, self.prefix)
            .eval()
            .requires_grad_(False)
        )
