"""CLIPScore (Hessel et al. 2021): the cosine of an image's and its prompt's embeddings by a CLIP network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from distill.config.installation import find_asset
from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

SCALES: dict[str, tuple[float, float | None]] = {
    "cosine": (1.0, None),
    "100": (100.0, 0.0),
    "2.5": (2.5, 0.0),
}
"""Each convention's factor, and the minimum that the cosine is clamped to, None for none."""


def _as_text(value: object) -> object:
    """Turn a number into text: YAML reads the convention 100 as a number."""
    return str(value) if isinstance(value, (int, float)) else value


class Settings(RewardSettings):
    """CLIPScore: how well an image fits its prompt."""

    name: Literal["clipscore"] = "clipscore"
    path: str = "openai/clip-vit-large-patch14"
    """Folder of a CLIP network with its tokenizer and image processor, or its name on the Hugging Face hub.
    Scores of different networks cannot be compared."""
    scale: Annotated[Literal["cosine", "100", "2.5"], BeforeValidator(_as_text)] = "cosine"
    """Convention of the score: `cosine` itself; `100` for 100 max(cosine, 0), as torchmetrics prints it; or
    `2.5` for 2.5 max(cosine, 0), as in the paper."""
    prefix: str = ""
    """Text to put before each prompt; the paper uses "A photo depicts "."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return ("clip",)

    def load(self) -> Reward:
        from transformers import AutoTokenizer, CLIPModel

        from distill.rewards.pretrained.clip import Similarity
        from distill.rewards.pretrained.preprocessing import read_preprocessing
        from distill.rewards.pretrained.tokens import PublishedTokens
        from distill.rewards.pretrained.weights import open_pretrained, read_pretrained

        source = str(find_asset(Path(self.path)))
        clip = read_pretrained(CLIPModel, source, "clipscore.path")
        tokenizer = open_pretrained(AutoTokenizer, source, "clipscore.path")
        preprocessing = read_preprocessing(source, "clipscore.path")
        tokens = PublishedTokens(tokenizer)
        scale, minimum = SCALES[self.scale]
        reward = Similarity(self.name, clip, tokens, preprocessing, scale, minimum, self.prefix)
        return reward.eval().requires_grad_(False)
